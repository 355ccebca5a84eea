"""Tests of `receiver.health`."""
