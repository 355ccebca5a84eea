"""The HTTP server below the application: connections, bodies, and responses on their way."""
