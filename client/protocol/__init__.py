"""The JSON between client and receiver, and the interface that both use."""
