"""Tests of `receiver.service`."""
