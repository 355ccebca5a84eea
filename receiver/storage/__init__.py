"""Where tasks, deliveries and the log of results live: the only package with SQL in it."""
