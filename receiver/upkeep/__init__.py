"""Background loops: deadlines, retention, shapes of callbacks."""
