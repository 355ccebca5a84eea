"""HTTP: routes, bodies, API keys, problems. No other package of the receiver knows it."""
