"""Readers of the log of results in this process."""
