"""The commands of `callback-receiver`, one module each."""
