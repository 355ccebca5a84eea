"""The only package that knows HTTP: routes, bodies, keys, problems."""
