"""Requests of the receiver to providers, with its own keys."""
