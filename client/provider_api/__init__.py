"""Requests to a provider."""
