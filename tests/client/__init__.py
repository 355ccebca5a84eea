"""Tests of the client's public names and of its packages."""
