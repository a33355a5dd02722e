"""Tensors to files. torch's own writer tells of a full disk in words that nobody understands."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch


def save_tensors(state: dict[str, Any], path: Path) -> None:
    """What torch.save writes. Raises OSError, with the path, where it cannot be written."""
    payload = io.BytesIO()
    torch.save(state, payload)
    try:
        path.write_bytes(payload.getvalue())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
