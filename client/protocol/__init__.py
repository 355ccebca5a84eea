"""The JSON between client and receiver, and the interface for both sides of a connection."""
