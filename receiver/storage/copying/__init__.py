"""The move of everything that is stored from one kind of database to the other."""
