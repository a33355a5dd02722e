"""Windows as bytes, for the journal: which window it is, then the window. Each of the two as

    length, CRC-32     4 bytes each, big-endian
    MessagePack        https://msgpack.org; arrays as float32 little-endian

so that of a window that was cut for another model, or is damaged, it can still be told which one it is.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import Any

import msgspec
import numpy as np

from tscc_stream.messages import Float32Array, Window, read_only
from tscc_stream.package import WINDOW_KEYS, PackageSpec
from tscc_stream.sampling import offset_ns


class PackedWindowError(ValueError):
    """Bytes that are no window of the model in use, and why."""


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which window it is. cut: how it was cut, as `cut_of` says. end_ns: after its last sample."""

    cut: str
    uid: str
    sid: str
    onset_ns: int
    start_ns: int
    end_ns: int


class _Rest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """shape: [samples, channels] of both arrays."""

    sample_rate_hz: float
    stream_rate_hz: float
    shape: tuple[int, int]
    waveform: bytes
    normalised: bytes
    peak_ratio: float
    peak_amplitude: float
    duration_s: float
    quality: tuple[str, ...]


_HEAD = struct.Struct(">II")
_ARRAYS = ("waveform", "normalised")
_NAMED = ("uid", "sid", "onset_ns", "start_ns")
_SAME = tuple(name for name in _Rest.__struct_fields__ if name not in ("shape", *_ARRAYS))
_encode = msgspec.msgpack.Encoder().encode
_decode_identity = msgspec.msgpack.Decoder(Identity).decode
_decode_rest = msgspec.msgpack.Decoder(_Rest).decode


def cut_of(spec: PackageSpec) -> str:
    """The same for two models exactly where their windows are the same."""
    stated = [[key, getattr(spec, key)] for key in WINDOW_KEYS]
    return hashlib.sha256(msgspec.json.encode(stated)).hexdigest()[:16]


def end_ns(window: Window) -> int:
    """After its last sample."""
    return window.start_ns + offset_ns(len(window.normalised), window.sample_rate_hz)


def pack(window: Window, cut: str) -> bytes:
    """cut: how it was cut. Monotonic time is left out: it means nothing after a restart."""
    named = Identity(cut=cut, end_ns=end_ns(window), **{name: getattr(window, name) for name in _NAMED})
    fields: dict[str, Any] = {name: getattr(window, name) for name in _SAME}
    fields |= {name: np.ascontiguousarray(getattr(window, name), "<f4").tobytes() for name in _ARRAYS}
    return _block(_encode(named)) + _block(_encode(_Rest(shape=window.normalised.shape, **fields)))


def identity_of(packed: bytes) -> Identity:
    """Which window it is, however it was cut. Raises PackedWindowError where that is damaged."""
    try:
        return _decode_identity(_opened(packed)[0])
    except msgspec.DecodeError as error:
        raise PackedWindowError(f"no window: {error}") from error


def unpack(packed: bytes, cut: str) -> Window:
    """The window. Raises PackedWindowError where the bytes are none, or one that was cut another way."""
    known = identity_of(packed)
    if known.cut != cut:
        raise PackedWindowError(f"window {known.uid} was cut for a model with other windows")
    rest, _ = _opened(_opened(packed)[1])
    try:
        stored = _decode_rest(rest)
        fields: dict[str, Any] = {name: _array(getattr(stored, name), stored.shape) for name in _ARRAYS}
    except (msgspec.DecodeError, ValueError) as error:
        raise PackedWindowError(f"no window: {error}") from error
    fields |= {name: getattr(known, name) for name in _NAMED}
    return Window(**fields, **{name: getattr(stored, name) for name in _SAME})


def _block(content: bytes) -> bytes:
    return _HEAD.pack(len(content), zlib.crc32(content)) + content


def _opened(blocks: bytes) -> tuple[bytes, bytes]:
    """The first block's content, and what follows."""
    if len(blocks) < _HEAD.size:
        raise PackedWindowError("no window: it ends too early")
    length, checksum = _HEAD.unpack_from(blocks)
    content, after = blocks[_HEAD.size : _HEAD.size + length], blocks[_HEAD.size + length :]
    if len(content) != length or zlib.crc32(content) != checksum:
        raise PackedWindowError("no window: its bytes are damaged")
    return content, after


def _array(raw: bytes, shape: tuple[int, int]) -> Float32Array:
    array: Float32Array = np.frombuffer(raw, "<f4").astype(np.float32).reshape(shape)
    return read_only(array)
