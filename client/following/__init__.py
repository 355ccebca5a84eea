"""One task from createTask to its outcome."""
