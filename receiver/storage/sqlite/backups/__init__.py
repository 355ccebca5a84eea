"""Whole copies of a database: backups beside a running receiver, and their way back into place."""
