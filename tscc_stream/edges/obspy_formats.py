"""Recordings in formats other than miniSEED (SAC, GSE2, text lists, ...): the only place that imports obspy."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from tscc_stream.messages import AnyArray, Record, read_only


class FormatError(ValueError):
    """A file that no format known to obspy can read; the text says why, without the path."""


def read_recording(path: Path) -> list[Record]:
    """Every unbroken trace of a recording as one Record (at least one), in the file's order.

    Compressed files (.gz, .bz2, .zip, .tar) are read as well. Raises FormatError.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stream = _obspy_read(str(path))
    except Exception as error:  # a format's reader may raise anything at all on a foreign file
        raise FormatError(_reason(error)) from error
    records = [_record(trace) for trace in stream.split() if len(trace.data)]
    if not records:
        raise FormatError("holds no samples")
    return records


def _obspy_read(path: str) -> Any:  # noqa: ANN401 obspy has no types
    import obspy  # noqa: PLC0415 takes a second, which only foreign formats are worth
    from obspy.core.util.base import ENTRY_POINTS  # noqa: PLC0415

    ENTRY_POINTS["waveform"].pop("PICKLE", None)  # reading a pickle runs whatever code its author put in
    return obspy.read(path)


def _reason(error: Exception) -> str:
    if isinstance(error, TypeError) and "Unknown format" in str(error):
        return "neither miniSEED nor any other format that obspy knows"
    first_line = (str(error).splitlines() or [""])[0]
    return f"obspy cannot read it: {type(error).__name__}: {first_line:.200}"


def _record(trace: Any) -> Record:  # noqa: ANN401 obspy has no types
    stats = trace.stats
    sid = f"FDSN:{stats.network}_{stats.station}_{stats.location}_{_channel(stats.channel)}"
    samples = read_only(_samples(np.asarray(trace.data)))
    return Record(sid, int(stats.starttime.ns), float(stats.sampling_rate), samples)


def _channel(code: str) -> str:
    """`SHZ` -> `S_H_Z`; other lengths keep their letters where band, source and subsource would stand."""
    return f"{code[:1]}_{code[1:2]}_{code[2:]}"


def _samples(data: AnyArray) -> AnyArray:
    """In one of the three types of a Record, without a change of value."""
    if data.dtype.kind in "iu":
        narrow = data.astype(np.int32)
        return narrow if np.array_equal(narrow, data) else data.astype(np.float64)
    return data.astype(np.float32 if data.dtype.itemsize <= 4 else np.float64)
