"""Tests of `receiver.domain`."""
