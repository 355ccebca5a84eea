"""Callbacks of the receiver to itself, by the way that providers and readers take."""
