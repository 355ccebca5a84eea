"""Tests of `client.provider_api`."""
