"""Durable storage of tasks, deliveries and the log: the `Store` protocol and its SQLite implementation."""
