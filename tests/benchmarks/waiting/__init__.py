"""Measurements of waiting for results."""
