"""PNG files of depths that Pillow does not write."""

import struct
import zlib
from pathlib import Path

import numpy as np

GREY, RGB, GREY_ALPHA, RGBA = 0, 2, 4, 6  # colour types of the PNG specification


def write_raw_png(path: Path, values: np.ndarray, bits: int, colour_type: int = GREY) -> None:
    """Stores `values` (H, W) or (H, W, channels) as they are, with 1, 2, 4, 8 or 16 bits each."""
    height, width = values.shape[:2]
    flat = values.reshape(height, -1).astype(np.int64)
    planes = (flat[..., None] >> np.arange(bits - 1, -1, -1)) & 1  # most significant bit first
    rows = np.packbits(planes.reshape(height, -1).astype(np.uint8), axis=1)
    filtered = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(filtered)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
