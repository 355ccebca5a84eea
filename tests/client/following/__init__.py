"""Tests of `client.following`."""
