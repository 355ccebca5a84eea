"""Real PNG files, drawn on the spot, no two alike."""

from __future__ import annotations

import random
import struct
import zlib
from pathlib import Path

__all__ = ["draw_picture"]

_CELLS_WIDE, _CELLS_HIGH, _CELL = 24, 8, 5


def draw_picture(path: Path, seed: int) -> None:
    """Write a grey PNG of 120 by 40 pixels whose pattern depends on `seed` alone."""
    dice = random.Random(seed)  # noqa: S311  (a pattern, no secret)
    rows = []
    for _ in range(_CELLS_HIGH):
        row = b"".join(bytes([dice.choice((40, 120, 200, 255))]) * _CELL for _ in range(_CELLS_WIDE))
        # Each line of pixels begins with its filter: none.
        rows += [b"\x00" + row] * _CELL
    header = struct.pack(">IIBBBBB", _CELLS_WIDE * _CELL, _CELLS_HIGH * _CELL, 8, 0, 0, 0, 0)
    chunks = (_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(b"".join(rows))), _chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
