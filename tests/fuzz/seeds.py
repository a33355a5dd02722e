"""The corpus: valid inputs, made here. `python tests/fuzz/seeds.py` writes them; findings lie beside them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the tests' folder, when run as a program

from fuzz.inputs import with_crc, with_lengths
from seedlink_fakes import PLAIN_V3, PLAIN_V4, START_NS, record, v3, v3_info, v4

from tscc_stream.miniseed import Encoding, encode

CORPUS = Path(__file__).parent / "corpus"
_OTHER = "FDSN:XX_S001__E_H_Z"


def signal(samples: int = 900, burst: int = 500) -> np.ndarray:
    rng = np.random.default_rng(1)
    data = rng.normal(0.0, 100.0, samples)
    tail = np.arange(samples - burst)
    data[burst:] += 8000.0 * np.exp(-tail / 40.0) * np.sin(0.8 * tail)
    return np.round(data).astype(np.int32)


def channel(
    sid: str, encoding: Encoding = "steim2", version: int = 2, length: int = 512, rate: float = 100.0
) -> list[bytes]:
    data = signal()
    typed = data if encoding in ("steim1", "steim2", "int32") else data.astype(np.float64)
    return encode(sid, START_NS, rate, typed, record_length=length, encoding=encoding, version=3 if version == 3 else 2)


def _streams() -> dict[str, bytes]:
    """Server bytes after the negotiation."""
    one = [record(second=second) for second in range(6)]
    mixed = [one[0], record(_OTHER), one[1], record(_OTHER, second=1, version=3), one[2], record(version=3, second=3)]
    return {
        "v4": b"".join(v4(number, payload) for number, payload in enumerate(one, 1)),
        "v4_mixed": b"".join(v4(number, payload, "XX_S001") for number, payload in enumerate(mixed, 1)),
        "v4_texts": v4(1, one[0]) + v4(0, b'{"software": "x"}', "", "JI") + v4(2, one[1]) + b"ERROR INTERNAL x\r\n",
        "v4_end": v4(1, one[0]) + v4(2, b"{}", code="JD") + b"END",
        "v3": b"".join(v3(number, payload) for number, payload in enumerate(one, 0xFFFFFD)),
        "v3_texts": v3(1, one[0]) + v3_info("<seedlink/>") + v3(2, one[1]) + b"ERROR\r\n",
        "v3_end": v3(7, one[0]) + v3(8, one[1]) + b"END",
        "v3_third": v3(7, record(version=3)) + v3(8, one[1]),
    }


def _sessions() -> dict[str, bytes]:
    """Flags (see targets), seed of the cuts, stream."""
    out = {name: bytes((1 if name[:2] == "v4" else 0, 0)) + stream for name, stream in _streams().items()}
    out["v4_one_sequence"] = b"\x03\x05" + _streams()["v4"]
    out["v4_other_streams"] = b"\x21\x05" + _streams()["v4_mixed"]
    caps = v4(0, b'{"capability": ["SEQWILDCARD"]}', "", "JI")
    out["hello_v4"] = (
        b"\x05\x03" + f"{PLAIN_V4}\r\nA mine\r\n".encode() + b"OK\r\n" * 2 + caps + b"OK\r\n" * 3 + _streams()["v4_end"]
    )
    out["hello_v3"] = b"\x04\x03" + f"{PLAIN_V3}\r\nA mine\r\n".encode() + b"OK\r\n" * 3 + _streams()["v3_texts"]
    stations = v3_info('<seedlink><station name="UH1" network="BW"/><station name="UH2" network="BW"/></seedlink>')
    out["hello_v3_stations"] = (
        b"\x14\x03" + f"{PLAIN_V3}\r\nA mine\r\nOK\r\nERROR\r\n".encode() + stations + b"OK\r\n" * 6 + _streams()["v3"]
    )
    out["hello_v4_auth"] = b"\x15\x03" + f"{PLAIN_V4}\r\nA mine\r\n".encode() + b"OK\r\nOK\r\nERROR AUTH no\r\n"
    return out


def _with_extra(payload: bytes, extra: bytes) -> bytes:
    """A miniSEED 3 record with extra headers."""
    name = payload[33]
    head = payload[:34] + len(extra).to_bytes(2, "little") + payload[36:40]
    return with_crc(head + payload[40 : 40 + name] + extra + payload[40 + name :])


def _record_runs() -> dict[str, bytes]:
    zh, zn = "FDSN:BW_UH1__S_H_Z", "FDSN:BW_UH2__S_H_Z"
    steim = channel(zh)
    woven = [payload for pair in zip(steim, channel(zn, "int32", length=4096) * 9, strict=False) for payload in pair]
    third = channel(zh, version=3)
    quality = b'{"FDSN": {"Time": {"Quality": 10}, "Flags": {"DigitizerClipping": true}}}'
    payloads_by_name = {
        "steim2": steim,
        "steim1": channel(zh, "steim1"),
        "int32": channel(zh, "int32", length=1024),
        "float32": channel(zh, "float32", length=1024),
        "float64": channel(zh, "float64", length=2048),
        "two_channels": woven[:6],
        "third": third,
        "third_floats": channel(zn, "float32", version=3),
        "third_extra": [_with_extra(payload, quality) for payload in third],
        "rates": [*steim, *channel(zh, rate=50.0)],
    }
    runs = {name: b"\0" + with_lengths(payloads) for name, payloads in payloads_by_name.items()}
    return {**runs, "classic": b"\1" + with_lengths(steim)}


def made() -> dict[str, dict[str, bytes]]:
    """The valid inputs of each target, by file name."""
    both = {"session": _sessions(), "records": _record_runs()}
    return {target: {f"seed_{name}": data for name, data in inputs.items()} for target, inputs in both.items()}


def write() -> None:
    for target, inputs in made().items():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in inputs.items():
            (folder / name).write_bytes(data)


def corpus(target: str) -> dict[str, bytes]:
    """Every input by its name."""
    return {path.name: path.read_bytes() for path in sorted((CORPUS / target).iterdir())}


if __name__ == "__main__":
    write()
