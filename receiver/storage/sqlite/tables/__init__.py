"""Tables apart from tasks and the log, a module for each."""
