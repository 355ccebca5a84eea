"""What callers import: submit tasks to a provider and get each answer once, however it comes."""
