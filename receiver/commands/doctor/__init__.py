"""`callback-receiver doctor`."""
