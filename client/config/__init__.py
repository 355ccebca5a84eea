"""Arguments, the environment and files that users edit."""
