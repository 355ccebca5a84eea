"""Faults from outside: kill -9, cut wires, slow peers, wrong settings."""
