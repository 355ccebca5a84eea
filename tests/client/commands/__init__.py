"""Tests of `client.commands`."""
