"""The SQLite store: writing, reading, migrations, retention and read-only diagnostics."""
