"""Tests of `receiver.commands`."""
