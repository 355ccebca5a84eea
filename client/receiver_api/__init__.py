"""Requests to a receiver."""
