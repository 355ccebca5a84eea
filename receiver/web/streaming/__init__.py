"""The log as websocket and as server-sent events."""
