"""miniSEED there and back; whatever else comes is a RecordError."""

from __future__ import annotations

import json
import struct
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pymseed
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from made_streams import SECOND, SID, T0

from tscc_stream import miniseed
from tscc_stream.miniseed import Encoding, RecordError

DTYPES: dict[Encoding, type] = {
    "int32": np.int32, "steim1": np.int32, "steim2": np.int32, "float32": np.float32, "float64": np.float64
}  # fmt: skip
ENCODINGS = st.sampled_from(list(DTYPES))
RATES = st.sampled_from([1000.0, 250.0, 200.0, 62.5, 50.0, 1.0, 0.1])


def _samples(encoding: Encoding, seed: int, count: int, largest: int = 2**27) -> npt.NDArray[Any]:
    rng = np.random.default_rng(seed)
    if DTYPES[encoding] is np.int32:
        return rng.integers(-largest, largest, count).astype(np.int32)
    return rng.normal(0, 1e5, count).astype(DTYPES[encoding])


@given(
    encoding=ENCODINGS, version=st.sampled_from([2, 3]), seed=st.integers(0, 99), count=st.integers(1, 700), rate=RATES,
    start_us=st.integers(0, 4 * 10**15), length=st.sampled_from([256, 512, 4096]),
)  # fmt: skip
def test_there_and_back(
    encoding: Encoding, version: Any, seed: int, count: int, rate: float, start_us: int, length: int
) -> None:
    samples = _samples(encoding, seed, count)
    start_ns = start_us * 1000 + (7 if version == 3 else 0)  # version 2 knows microseconds
    raw = miniseed.encode(SID, start_ns, rate, samples, record_length=length, encoding=encoding, version=version)
    assert all(len(record) <= length for record in raw)
    assert version == 3 or all(len(record) == length for record in raw)
    decoded = [miniseed.decode(record, received_ns=5) for record in raw]
    assert np.array_equal(np.concatenate([record.samples for record in decoded]), samples)
    position = 0
    for record in decoded:
        exact = start_ns + round(position * SECOND / rate)
        assert abs(record.start_ns - exact) <= (500 if version == 2 else 1)
        assert (record.sid, record.sample_rate_hz, record.quality, record.received_ns) == (SID, rate, frozenset(), 5)
        assert record.samples.dtype == DTYPES[encoding]
        assert not record.samples.flags.writeable
        position += record.samples.size
    joined = b"".join(raw)
    offsets = [offset for offset, _ in miniseed.split(joined)]
    assert offsets == np.cumsum([0, *map(len, raw[:-1])]).tolist()
    assert all(miniseed.starts_record(record[:27]) for record in raw)
    if version == 3 or SECOND % int(rate * 1000) == 0:
        run = miniseed.decode_run(joined, count)
        assert np.array_equal(run, samples)
        assert not run.flags.writeable


@pytest.mark.parametrize("rate", [300.0, 1 / 3, 99.9999, 1e-4])
@pytest.mark.parametrize("version", [2, 3])
def test_odd_rates(rate: float, version: Any) -> None:
    (raw,) = miniseed.encode(SID, T0, rate, np.arange(9), version=version)
    assert miniseed.decode(raw).sample_rate_hz == pytest.approx(rate, rel=1e-6)


@pytest.mark.parametrize(
    ("samples", "encoding"),
    [
        ([0, 2**30], "steim2"),
        ([2**40, 1], "int32"),
        ([0.5, 1.0], "steim2"),
        ([-(2**31) - 1], "steim1"),
    ],
)
def test_samples_that_do_not_fit_are_refused_and_not_bent(samples: list[float], encoding: Encoding) -> None:
    with pytest.raises(RecordError, match="do not fit") as caught:
        miniseed.encode(SID, T0, 100.0, np.array(samples), encoding=encoding)
    assert caught.value.reason == "malformed"


def _one(version: Any = 2, **changes: Any) -> bytes:
    values = {"encoding": "steim2", **changes}
    (raw,) = miniseed.encode(SID, T0, 100.0, np.arange(100) ** 2, version=version, **values)
    return raw


RECORDS = {version: _one(version) for version in (2, 3)}


REASONS = {"malformed", "corrupt", "encoding", "empty", "text", "rate", "time", "source"}


def _decodes_or_refuses(payload: bytes) -> None:
    for reader in (miniseed.decode, miniseed.header, miniseed.repacked):
        try:
            reader(payload)
        except RecordError as error:
            assert error.reason in REASONS  # noqa: PT017  # a record may also decode
    try:
        assert all(0 <= offset < len(payload) for offset, _ in miniseed.split(payload))
        miniseed.shifted(payload, 100_000)
        miniseed.decode_run(payload, 3)
    except RecordError as error:
        assert error.reason in REASONS  # noqa: PT017  # as above
    assert 0 <= miniseed.find_record(payload, 0) <= len(payload)


@given(rubbish=st.binary(max_size=600))
@example(rubbish=b"")
@example(rubbish=b"MS\x03" + bytes(60))
@example(rubbish=b"000001D " + bytes(500))
@example(rubbish=b"\0" * 512)
def test_rubbish_is_refused(rubbish: bytes) -> None:
    _decodes_or_refuses(rubbish)


@given(
    version=st.sampled_from([2, 3]),
    changes=st.lists(st.tuples(st.integers(0, 511), st.integers(0, 255)), max_size=6),
    end=st.integers(0, 512),
)
def test_damaged_records_are_decoded_or_refused(version: int, changes: list[tuple[int, int]], end: int) -> None:
    damaged = bytearray(RECORDS[version])
    for at, value in changes:
        damaged[at % len(damaged)] = value
    if version == 3 and end % 2:  # past its checksum
        damaged[28:32] = struct.pack("<I", _crc32c(bytes(damaged[:28]) + b"\0\0\0\0" + bytes(damaged[32:])))
    _decodes_or_refuses(bytes(damaged[:end] if end % 3 == 0 else damaged))


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _version_3(extra: bytes = b"", *, flags: int = 0, sid: bytes = SID.encode(), samples: int = 2, rate: float = 100.0,
               encoding: int = 3, payload: bytes | None = None,
               time: tuple[int, ...] = (210_000_000, 2010, 147, 16, 24, 33)) -> bytes:  # fmt: skip
    """A version 3 record by hand (FDSN miniSEED 3, table 1)."""
    data = np.arange(samples, dtype="<i4").tobytes() if payload is None else payload
    head = b"MS\x03" + struct.pack(
        "<BIHHBBBBdIIBBHI", flags, *time, encoding, rate, samples, 0, 1, len(sid), len(extra), len(data)
    )
    raw = head + sid + extra + data
    return raw[:28] + struct.pack("<I", _crc32c(raw)) + raw[32:]


@pytest.mark.parametrize(
    ("extra", "flags", "quality"),
    [
        ({}, 0, set()),
        ({"FDSN": {"Flags": {"AmplifierSaturation": True}}}, 0, {"clipped"}),
        ({"FDSN": {"Flags": {"DigitizerClipping": True}}}, 2, {"clipped", "timing"}),
        ({"FDSN": {"Flags": {"DigitizerClipping": False}, "Time": {"Quality": 100}}}, 0, set()),
        ({"FDSN": {"Time": {"Quality": 49}}}, 0, {"timing"}),
        ({"FDSN": {"Time": {"Quality": 50}}}, 4, set()),
        ({"FDSN": {"Time": {"Quality": 0}}}, 0, set()),
        ({"FDSN": {"Time": {"Quality": "bad"}, "Flags": 3}}, 0, set()),
        ({"FDSN": {"Time": 1}}, 2, {"timing"}),
        ({"FDSN": [1]}, 0, set()),
        ([1, 2], 0, set()),
    ],
)
def test_what_a_header_says_against_its_samples(extra: Any, flags: int, quality: set[str]) -> None:
    record = miniseed.decode(_version_3(json.dumps(extra).encode(), flags=flags))
    assert record.quality == quality
    assert record.start_ns == 1_274_977_473_210_000_000
    assert record.samples.tolist() == [0, 1]


@pytest.mark.parametrize("extra", [b"{", b"\xff\xff", b"[" * 60_000, b'{"FDSN":' * 8000])
def test_headers_that_are_no_json_say_nothing(extra: bytes) -> None:
    assert miniseed.decode(_version_3(extra)).quality == frozenset()


def test_flags_of_version_2_are_read_too() -> None:
    raw = bytearray(RECORDS[2])
    raw[38] |= 0x02  # data quality: digitizer clipping detected
    assert miniseed.decode(bytes(raw)).quality == {"clipped"}
    raw[38] |= 0x80  # time tag is questionable
    assert miniseed.decode(bytes(raw)).quality == {"clipped", "timing"}


def _version_2(at: int, value: bytes) -> bytes:
    """A version 2 record of 100 Steim2 samples with some bytes of it changed."""
    return RECORDS[2][:at] + value + RECORDS[2][at + len(value) :]


def _year(year: int) -> tuple[int, ...]:
    return 0, year, 147, 16, 24, 33


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "malformed"),
        (_version_3()[:-1], "malformed"),
        (RECORDS[2][:300], "malformed"),
        (_version_2(54, b"\x0c"), "malformed"),  # says 4096 bytes
        (_version_2(54, b"\x01"), "malformed"),  # says 2 bytes
        (_version_3(sid=b"F" * 255), "malformed"),
        (_version_3(time=(0, 2010, 147, 16, 24, 61)), "malformed"),
        (_version_3()[:-1] + b"\7", "corrupt"),
        (_version_2(100, b"\xff" * 60), "corrupt"),
        (_version_2(72, b"\1\2\3\4"), "corrupt"),  # not its last sample
        (_version_2(84, bytes([RECORDS[2][84] ^ 5])), "corrupt"),  # one difference is another
        (_version_2(30, b"\xff\xff"), "corrupt"),  # 65535 samples
        (_version_2(44, b"\2\x58"), "corrupt"),  # samples begin behind the record's end
        (_version_3(encoding=11, payload=b"", samples=5), "corrupt"),
        (_version_3(encoding=5), "corrupt"),  # half the bytes of two doubles
        (_version_3(encoding=2), "encoding"),
        (_version_3(encoding=19), "encoding"),
        (_version_3(encoding=255), "encoding"),
        (_version_2(52, b"\x63"), "encoding"),
        (_version_3(samples=0), "empty"),
        (_version_2(30, b"\0\0"), "empty"),
        (_version_3(encoding=0, payload=b"text", samples=4), "text"),
        (_version_3(rate=0.0), "rate"),
        (_version_3(rate=1e10), "rate"),
        (_version_3(rate=1e-300), "rate"),
        (_version_3(rate=-1e12), "rate"),
        (_version_3(rate=float("nan")), "rate"),
        (_version_3(rate=float("-inf")), "rate"),
        (_version_2(32, b"\0\0\0\0"), "rate"),
        (_version_2(32, b"\x7f\xff\x7f\xff"), "rate"),
        (_version_3(time=_year(1)), "time"),
        (_version_3(time=_year(1800)), "time"),
        (_version_3(time=_year(2200)), "time"),
        (_version_3(time=_year(9999)), "time"),
        (_version_3(time=(0, 2010, 366, 16, 24, 33)), "time"),
        (_version_3(time=(4_000_000_000, 2010, 147, 16, 24, 33)), "time"),
        (_version_2(20, b"\0\1"), "time"),
        (_version_2(20, b"\x27\x0f"), "time"),
        (_version_3(sid=b"FDSN:\xff_A__E_H_Z"), "source"),
        (_version_3(sid="FDSN:Ä_A__E_H_Z".encode()), "source"),
        (_version_3(sid=b"FDSN:XX_A\n__E_H_Z"), "source"),
        (_version_3(sid=b"FDSN:XX_A.B__E_H_Z"), "source"),
        (_version_3(sid=b""), "source"),
    ],
)
def test_records_that_cannot_be_used_are_refused_with_a_word_for_the_counters(raw: bytes, reason: str) -> None:
    with pytest.raises(RecordError) as caught:
        miniseed.decode(raw)
    assert caught.value.reason == reason
    assert str(caught.value).isprintable()
    if reason in {"empty", "text"}:
        for reader in (miniseed.repacked, lambda payload: miniseed.shifted(payload, 5)):
            with pytest.raises(RecordError) as caught:
                reader(raw)
            assert caught.value.reason == "empty"


def test_a_run_with_a_corrupt_record_is_looked_at_record_by_record() -> None:
    with pytest.raises(RecordError, match="last sample") as caught:
        miniseed.decode_run(_version_2(84, bytes([RECORDS[2][84] ^ 5])), 100)
    assert caught.value.reason == "corrupt"
    assert miniseed.decode_run(RECORDS[2], 100).size == 100


def test_a_leap_second_is_the_second_after_it() -> None:
    """Stamped 23:59:60, as recorders do that know of it: the same as 00:00:00."""
    midnight = 1_277_942_400 * SECOND
    assert miniseed.decode(_version_3(time=(0, 2010, 181, 23, 59, 60))).start_ns == midnight
    (raw,) = miniseed.encode(SID, midnight - SECOND, 100.0, np.arange(100))
    assert miniseed.decode(raw[:26] + b"\x3c" + raw[27:]).start_ns == midnight


def test_a_rate_given_as_a_period() -> None:
    assert miniseed.decode(_version_3(rate=-10.0)).sample_rate_hz == pytest.approx(0.1)


def test_split_gives_what_came_before_the_damage() -> None:
    headers = miniseed.split(RECORDS[2] * 2 + b"rubbish" * 99)
    assert [next(headers)[0], next(headers)[0]] == [0, 512]
    with pytest.raises(RecordError, match="not miniSEED at byte 1024"):
        next(headers)


def test_records_are_found_behind_rubbish() -> None:
    for version, raw in RECORDS.items():
        data = b"000001X rubbish MS\x02" + raw
        assert miniseed.find_record(data, 0) == len(data) - len(raw), version
        assert miniseed.find_record(data, len(data) - len(raw) + 1) == len(data)
        assert not miniseed.starts_record(data)


def test_a_run_must_be_unbroken_and_of_one_channel() -> None:
    later = miniseed.encode(SID, T0 + 5 * SECOND, 100.0, np.arange(100))[0]
    other = miniseed.encode("FDSN:XX_B__E_H_Z", T0, 100.0, np.arange(100))[0]
    for data, count in ((RECORDS[2] + later, 200), (RECORDS[2] + other, 200), (RECORDS[2], 99), (b"no" * 300, 1)):
        with pytest.raises(RecordError) as caught:
            miniseed.decode_run(data, count)
        assert caught.value.reason == "malformed"


@pytest.mark.parametrize("encoding", list(DTYPES))
@pytest.mark.parametrize("version", [2, 3])
def test_repacked_records_hold_the_same(encoding: Encoding, version: Any) -> None:
    samples = _samples(encoding, 1, 900)
    raw = miniseed.encode(SID, T0, 100.0, samples, encoding=encoding, version=version, record_length=4096)
    again = [miniseed.decode(record) for one in raw for record in miniseed.repacked(one)]
    assert all(len(record) == 512 for one in raw for record in miniseed.repacked(one))
    assert np.array_equal(np.concatenate([record.samples for record in again]), samples)
    assert again[0].start_ns == T0


def test_differences_that_steim2_cannot_hold_are_packed_as_words() -> None:
    samples = np.array([0, 2**30] * 40, np.int32)
    (raw,) = miniseed.encode(SID, T0, 100.0, samples, encoding="int32")
    assert [miniseed.decode(record).samples.tolist() for record in miniseed.repacked(raw)] == [samples.tolist()]


def test_a_name_that_version_2_cannot_hold_is_refused() -> None:
    with pytest.raises(RecordError, match="cannot be packed again"):
        miniseed.repacked(_version_3(sid=b"FDSN:LONGNETWORK_LONGSTATION_LONGLOC_E_H_Z"))


def _swapped(raw: bytes) -> bytes:
    """The start time, which alone is patched, in the other byte order."""
    year, day, *rest, fraction = struct.unpack(">HHBBBBH", raw[20:30])
    return raw[:20] + struct.pack("<HHBBBBH", year, day, *rest, fraction) + raw[30:]


def _start_of(raw: bytes, order: str) -> int:
    year, day, hour, minute, second, _, fraction = struct.unpack(f"{order}HHBBBBH", raw[20:30])
    start = datetime(year, 1, 1, hour, minute, second, tzinfo=UTC)
    return (int(start.timestamp()) + (day - 1) * 86_400) * SECOND + fraction * 100_000


@given(start=st.integers(0, 4 * 10**9), tenths=st.integers(-(10**13), 10**13), order=st.sampled_from("<>"))
@example(start=1_262_304_000, tenths=5, order="<")  # 1 January: day 1, which reads as 256 in the other byte order
def test_version_2_is_moved_in_place_in_either_byte_order(start: int, tenths: int, order: str) -> None:
    (raw,) = miniseed.encode(SID, start * SECOND, 100.0, np.arange(50))
    raw = raw if order == ">" else _swapped(raw)
    end_ns = start * SECOND + tenths * 100_000
    if not 0 <= end_ns < 4 * 10**18 or datetime.fromtimestamp(start, UTC).year == 2056:
        return
    (moved,) = miniseed.shifted(raw, tenths * 100_000)
    assert _start_of(moved, order) == end_ns
    assert moved[:20] + moved[30:] == raw[:20] + raw[30:]


@pytest.mark.parametrize("shift", [1, 12_345, 100_000, -SECOND])
@pytest.mark.parametrize("version", [2, 3])
def test_shifted_records_hold_the_same(version: int, shift: int) -> None:
    moved = [miniseed.decode(record) for record in miniseed.shifted(RECORDS[version], shift)]
    assert abs(moved[0].start_ns - T0 - shift) <= (500 if version == 2 else 0)
    assert np.array_equal(np.concatenate([record.samples for record in moved]), np.arange(100) ** 2)
    assert miniseed.shifted(RECORDS[version], 0) == [RECORDS[version]]


@pytest.mark.parametrize("head", [b"", b"000001D " + bytes(30), b"000001D " + b"\xff" * 30])
def test_a_start_time_that_is_none_cannot_be_moved(head: bytes) -> None:
    with pytest.raises(RecordError, match="without a readable start time"):
        miniseed.shifted(head, 100_000)


def test_the_library_is_what_the_module_expects() -> None:
    assert pymseed.MS3Record.parse(RECORDS[3]).formatversion == 3
