"""Tests of the receiver and the client: real SQLite, real loopback sockets; only the provider is scripted."""
