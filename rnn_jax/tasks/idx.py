"""A reader of IDX files, the form in which MNIST and its likes are published."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

_UNSIGNED_BYTES = 8


def read_idx(path: Path, axes: int) -> np.ndarray:
    """Reads an array of unsigned bytes from an IDX file, plain or gzipped.

    The file is two zero bytes, the kind of the numbers, the number of axes, the length of each axis
    (four bytes, the most significant first), and the numbers.

    Args:
      path: of the file.
      axes: how many axes the array must have.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a file that is not of this form, or cut short, or longer than it says.
    """
    data = _read(path)
    header = 4 + 4 * axes
    if len(data) < header or data[:4] != bytes([0, 0, _UNSIGNED_BYTES, axes]):
        raise ValueError(
            f"{path} must be an IDX file of unsigned bytes with {axes} axes, which begins with "
            f"{bytes([0, 0, _UNSIGNED_BYTES, axes]).hex(' ')}; it has {len(data)} bytes and begins "
            f"with {data[:4].hex(' ') or 'nothing'}. Is it another file, or a page that a download "
            "gave in its place?"
        )
    shape = tuple(np.frombuffer(data, ">u4", axes, offset=4).tolist())
    expected = math.prod(shape)
    if len(data) - header != expected:
        raise ValueError(
            f"{path} must hold {expected} numbers, as its header says with the shape {shape}; got "
            f"{len(data) - header}. Was its download cut short? Fetch it again."
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _read(path: Path) -> bytes:
    data = path.read_bytes()
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"{path} must be a whole gzip file; it cannot be unpacked: {error}. Was its download "
            "cut short? Fetch it again."
        ) from error
