"""Commands for the database as a whole: backups, copies, retention, and bodies to read again."""
