"""Tests of `client.config`."""
