"""Windows as bytes, for the journal: MessagePack, arrays as float32 little-endian (https://msgpack.org)."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import numpy as np

from tscc_stream.messages import Float32Array, Window, read_only
from tscc_stream.package import WINDOW_KEYS, PackageSpec


class PackedWindowError(ValueError):
    """Bytes that are no window of the model in use, and why."""


class _Packed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """cut: how it was cut, as `cut_of` says. shape: [samples, channels] of both arrays."""

    cut: str
    uid: str
    sid: str
    onset_ns: int
    start_ns: int
    sample_rate_hz: float
    stream_rate_hz: float
    shape: tuple[int, int]
    waveform: bytes
    normalised: bytes
    peak_ratio: float
    peak_amplitude: float
    duration_s: float
    quality: tuple[str, ...]


_ARRAYS = ("waveform", "normalised")
_SAME = tuple(name for name in _Packed.__struct_fields__ if name not in ("cut", "shape", *_ARRAYS))
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Packed).decode


def cut_of(spec: PackageSpec) -> str:
    """The same for two models exactly where their windows are the same."""
    stated = [[key, getattr(spec, key)] for key in WINDOW_KEYS]
    return hashlib.sha256(msgspec.json.encode(stated)).hexdigest()[:16]


def pack(window: Window, cut: str) -> bytes:
    """cut: how it was cut. Monotonic time is left out: it means nothing after a restart."""
    fields: dict[str, Any] = {name: getattr(window, name) for name in _SAME}
    fields |= {name: np.ascontiguousarray(getattr(window, name), "<f4").tobytes() for name in _ARRAYS}
    return _encode(_Packed(cut=cut, shape=window.normalised.shape, **fields))


def unpack(packed: bytes, cut: str) -> Window:
    """The window. Raises PackedWindowError where the bytes are none, or one that was cut another way."""
    try:
        stored = _decode(packed)
        if stored.cut != cut:
            raise PackedWindowError(f"window {stored.uid} was cut for a model with other windows")
        fields: dict[str, Any] = {name: _array(getattr(stored, name), stored.shape) for name in _ARRAYS}
    except PackedWindowError:
        raise
    except (msgspec.DecodeError, ValueError) as error:
        raise PackedWindowError(f"no window: {error}") from error
    return Window(**fields, **{name: getattr(stored, name) for name in _SAME})


def _array(raw: bytes, shape: tuple[int, int]) -> Float32Array:
    array: Float32Array = np.frombuffer(raw, "<f4").astype(np.float32).reshape(shape)
    return read_only(array)
