"""Tests of `client.protocol`."""
