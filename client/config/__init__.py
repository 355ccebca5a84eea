"""Arguments, environment variables and files edited by users."""
