"""Use cases that HTTP, mounting and background loops call."""
