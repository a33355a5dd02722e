"""Messages, detections and journals for the tests of journal, bus and subscriber."""

from __future__ import annotations

import numpy as np

from tscc_stream.messages import Assignment, Detection, Message, Window, read_only

SECOND = 1_000_000_000
STATIONS = ("UH1", "UH2", "UH3")


def detection_message(
    number: int,
    cluster: str = "",
    size: int = 200,
    waveform: bytes | None = b"\0" * 40,
    band_passed: bytes | None = b"\1" * 40,
) -> Message:
    """The number-th detection: clusters 0, 1, 2 and stations in turn; the same number is the same message."""
    station = STATIONS[number // 3 % 3]
    return Message(
        uid=f"detection-{number}",
        kind="detection",
        topic=f"detection.{cluster or number % 3}.BW.{station}..SHZ.",
        body=b'{"number":%d,"filler":"%s"}' % (number, b"x" * size),
        onset_ns=number * SECOND,
        sid=f"FDSN:BW_{station}__S_H_Z",
        tolerance_ns=2_500_000,
        waveform=waveform,
        band_passed=band_passed,
    )


def network_message(number: int, final: bool = True) -> Message:
    return Message(
        uid=f"network-{number}",
        kind="network",
        topic=f"network.{number % 2}.",
        body=b'{"number":%d}' % number,
        onset_ns=number * SECOND,
        final=final,
    )


def status_message(number: int) -> Message:
    return Message(
        uid=f"status-{number}", kind="status", topic="status.daemon.", body=b'{"number":%d}' % number, onset_ns=number
    )


def mixed(numbers: range) -> list[Message]:
    """Mostly detections, every fifth message a network event, every eleventh a status."""
    return [
        status_message(n) if n % 11 == 0 else network_message(n) if n % 5 == 0 else detection_message(n)
        for n in numbers
    ]


def detection(known: bool = True, **changes: object) -> Detection:
    """The contract's example: cluster 1 of two, 500 samples at 50 Hz cut from a stream of 200 Hz."""
    window = {
        "uid": "u-1",
        "sid": "FDSN:BW_UH1__S_H_Z",
        "onset_ns": 1_274_977_473_210_000_999,
        "start_ns": 1_274_977_471_210_000_999,
        "sample_rate_hz": 50.0,
        "stream_rate_hz": 200.0,
        "waveform": read_only(np.zeros((500, 1), np.float32)),
        "normalised": read_only(np.linspace(-1, 1, 500, dtype=np.float32).reshape(500, 1)),
        "peak_ratio": 7.25,
        "peak_amplitude": 1234.5,
        "duration_s": 0.75,
        "quality": ("clipped",),
        "received_ns": 17,
    }
    assignment = Assignment(
        window=Window(**{**window, **changes}),  # type: ignore[arg-type]  # options of any kind
        embedding=np.zeros(4, np.float32),
        membership=np.array([0.02, 0.98], np.float32),
        cluster=1,
        squared_distance=np.array([3.0, 0.1], np.float32),
    )
    return Detection(assignment, "microseismic" if known else "unknown", known, 0.43 if known else None)
