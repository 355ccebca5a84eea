"""Tests of `receiver.feed.feed`."""
