"""Access to the receiver: the API keys in the store."""
