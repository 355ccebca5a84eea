"""Laws for any input: the store against a plain model, the Store law, the tokens."""
