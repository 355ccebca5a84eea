"""Tests of the dialects: bytes in, readings out."""
