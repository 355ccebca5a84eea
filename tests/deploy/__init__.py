"""Checks that deploy/ agrees with the code, and its files with each other."""
