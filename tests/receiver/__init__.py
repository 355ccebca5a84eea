"""Tests of the receiver over HTTP, and of its parts."""
