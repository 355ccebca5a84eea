"""Tests of `receiver.web`."""
