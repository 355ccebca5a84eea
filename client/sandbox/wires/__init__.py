"""The providers of the sandbox on the wire: their answers, callbacks, solutions and profiles."""
