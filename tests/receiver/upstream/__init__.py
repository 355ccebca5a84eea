"""Tests of `receiver.upstream`."""
