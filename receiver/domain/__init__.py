"""Decisions of the receiver. Pure: no I/O and no clock."""
