"""The sandbox by itself: `python -m client.sandbox --dialect NAME`."""

from __future__ import annotations

from client.sandbox.command import main

if __name__ == "__main__":
    main()
