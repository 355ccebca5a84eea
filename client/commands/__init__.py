"""The commands of `python -m client`."""
