"""The server that takes a provider's callbacks, stores them durably and wakes whoever waits."""
