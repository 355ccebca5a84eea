"""The HTTP server below the application: connections, bodies, unsent answers."""
