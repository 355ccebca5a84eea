"""Tests of what callers import."""
