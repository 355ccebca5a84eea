"""The commands of `callback-client`, one module each. The sandbox brings its own."""
