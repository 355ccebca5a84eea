"""Tests of `client.receiver_api`."""
