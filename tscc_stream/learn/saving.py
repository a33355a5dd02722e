"""What training keeps, to files: whole, or not at all. torch's own writer tells of a full disk in words that nobody
understands.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch


def save_tensors(state: dict[str, Any], path: Path) -> None:
    """What torch.save writes. Raises as `write`."""
    payload = io.BytesIO()
    torch.save(state, payload)
    write(path, payload.getvalue())


def write(path: Path, data: bytes) -> None:
    """In one step: until everything is on the disk, what was there stays. Raises OSError, with the path."""
    fresh = path.with_name(f"{path.name}.new")
    try:
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
