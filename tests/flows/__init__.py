"""Whole flows, as a user runs them: real processes, real sockets."""
