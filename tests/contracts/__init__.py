"""Generators of the written contracts, `asyncapi.json` and `openapi.json`."""
