"""Tests of `receiver.upkeep`."""
