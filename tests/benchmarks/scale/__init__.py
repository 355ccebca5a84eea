"""Measurements with millions of tasks, and with thousands of waiting connections."""
