"""Tests of `receiver.feed`."""
