"""Records by the thousand: what compiled code makes of them is what libmseed makes of each, to the bit."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from tscc_stream import miniseed, record_decoder
from tscc_stream.data_age import DataAge
from tscc_stream.messages import Record, RecordBatch
from tscc_stream.metrics import Channels
from tscc_stream.record_decoder import RecordDecoder, Undecoded

RATES = st.sampled_from([50.0, 99.5, 100.0, 250.0, 1000.0, 6000.0, 0.1])


@st.composite
def some_records(draw: st.DrawFn) -> list[bytes]:
    """Of a few channels, in any encoding, version, length, and with any differences."""
    made: list[bytes] = []
    for number in range(draw(st.integers(1, 4))):
        rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
        scale = draw(st.sampled_from([0.4, 3.0, 40.0, 3e3, 2e5, 1e8]))
        x = np.clip(np.cumsum(rng.normal(0.0, scale, draw(st.integers(1, 900)))), -5e8, 5e8).astype(np.int32)
        made += miniseed.encode(
            f"FDSN:XX_ST{number}_{draw(st.sampled_from(['', '00']))}_H_H_Z",
            draw(st.integers(31_600_000, 4_000_000_000)) * 1_000_000_000 + draw(st.integers(0, 999_999)) * 1000,
            draw(RATES),
            x,
            record_length=draw(st.sampled_from([128, 256, 512, 4096])),
            encoding=draw(st.sampled_from(["int32", "steim1", "steim2", "float32", "float64"])),
            version=draw(st.sampled_from([2, 2, 2, 3])),
        )
    return draw(st.permutations(made))


def places(payloads: list[bytes]) -> tuple[list[int], list[int]]:
    lengths = [len(payload) for payload in payloads]
    return [sum(lengths[:i]) for i in range(len(lengths))], lengths


def by_libmseed(payload: bytes) -> Record | str:
    try:
        return miniseed.decode(payload)
    except miniseed.RecordError as error:
        return error.reason


def found(parts: list[RecordBatch | Undecoded]) -> list[Record | str]:
    out: list[Record | str] = []
    for part in parts:
        if isinstance(part, Undecoded):
            assert part.place == len(out)
            out.append(part.error.reason)
        else:
            out += [part.record(i) for i in range(len(part))]
    return out


def assert_same(payloads: list[bytes], parts: list[RecordBatch | Undecoded]) -> None:
    got, expected = found(parts), [by_libmseed(payload) for payload in payloads]
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        if isinstance(other, str) or isinstance(one, str):
            assert one == other
            continue
        assert (one.sid, one.start_ns, one.sample_rate_hz, one.quality) == (
            *(other.sid, other.start_ns, other.sample_rate_hz, other.quality),
        )
        np.testing.assert_array_equal(one.samples, other.samples)


@settings(max_examples=150, deadline=None)
@given(some_records(), st.integers(1, 3))
def test_what_comes_out_is_what_libmseed_makes_of_each_record(payloads: list[bytes], times: int) -> None:
    decoder = RecordDecoder()
    for _ in range(times):
        assert_same(payloads, decoder.decode(b"".join(payloads), *places(payloads)))


@settings(max_examples=300, deadline=None)
@given(
    some_records(), st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 511), st.integers(0, 255)), max_size=6)
)
def test_damaged_records_are_judged_as_libmseed_judges_them(
    payloads: list[bytes], damages: list[tuple[int, int, int]]
) -> None:
    """Damage comes after the headers were learnt from whole records."""
    decoder = RecordDecoder()
    decoder.decode(b"".join(payloads), *places(payloads))
    for which, where, value in damages:
        payload = bytearray(payloads[which % len(payloads)])
        payload[where % len(payload)] = value
        payloads[which % len(payloads)] = bytes(payload)
    assert_same(payloads, decoder.decode(b"".join(payloads), *places(payloads)))


@pytest.mark.parametrize("encoding", ["int32", "steim1", "steim2"])
@pytest.mark.parametrize("length", [511, 256, 128, 100, 64, 60, 10, 0])
def test_records_that_are_cut_short_are_judged_by_their_own_bytes(encoding: miniseed.Encoding, length: int) -> None:
    """Whatever lies behind them in the buffer, and though all their samples may be there."""
    x = np.arange(10, dtype=np.int32)
    (payload,) = miniseed.encode("FDSN:XX_ST1__H_H_Z", 1_600_000_000_000_000_000, 100.0, x, encoding=encoding)
    decoder = RecordDecoder()
    decoder.decode(payload, [0], [512])
    (part,) = decoder.decode(payload, [0], [length])
    assert found([part]) == [by_libmseed(payload[:length])]
    assert_same([payload[:length]], decoder.decode(payload[:length], [0], [length]))


def test_memory_is_not_asked_for_on_a_header_s_word() -> None:
    x = np.arange(10, dtype=np.int32)
    (payload,) = miniseed.encode("FDSN:XX_ST1__H_H_Z", 1_600_000_000_000_000_000, 100.0, x)
    decoder = RecordDecoder()
    decoder.decode(payload, [0], [512])
    boast = payload[:30] + b"\xff\xff" + payload[32:]
    (batch, refused) = decoder.decode(payload + boast, [0, 512], [512, 512])
    assert isinstance(batch, RecordBatch)
    assert isinstance(refused, Undecoded)
    assert batch.samples.size == 10


@pytest.mark.parametrize("encoding", ["int32", "steim1", "steim2"])
def test_ordinary_records_are_covered(encoding: miniseed.Encoding, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.arange(2000, dtype=np.int32) % 17
    payloads = miniseed.encode("FDSN:XX_ST1__H_H_Z", 1_600_000_000_000_123_000, 100.0, x, encoding=encoding)
    decoder = RecordDecoder()
    decoder.decode(payloads[0], [0], [512])
    monkeypatch.setattr(miniseed, "decode", None)
    (batch,) = decoder.decode(b"".join(payloads), *places(payloads))
    assert isinstance(batch, RecordBatch)
    np.testing.assert_array_equal(batch.samples, x)


@pytest.mark.parametrize("encoding", ["steim1", "steim2"])
@pytest.mark.parametrize("samples", [100, 171, 190])
def test_codes_of_words_that_bring_no_sample_are_judged_as_libmseed_judges_them(
    encoding: miniseed.Encoding, samples: int
) -> None:
    """In the first frame before the differences, and behind the last one: in its frame, and beyond."""
    x = (np.arange(samples) ** 2 % 23).astype(np.int32)
    good = miniseed.encode("FDSN:XX_ST1__H_H_Z", 1_600_000_000_000_000_000, 100.0, x, encoding=encoding)[0]
    decoder, payloads = RecordDecoder(), []
    for frame, w, nibble, word in product(range(7), range(1, 16), (1, 2, 3), (0, 0x40, 0xC0)):
        at = 64 + 64 * frame
        codes = int.from_bytes(good[at : at + 4], "big")
        if not codes >> (30 - 2 * w) & 3:
            payload = bytearray(good)
            payload[at : at + 4] = (codes | nibble << (30 - 2 * w)).to_bytes(4, "big")
            payload[at + 4 * w] = word
            payloads.append(bytes(payload))
    decoder.decode(good, [0], [512])
    assert_same(payloads, decoder.decode(b"".join(payloads), *places(payloads)))


def test_what_a_server_can_make_grow_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_decoder, "MOST_KINDS", 3)
    decoder = RecordDecoder()
    for number in range(20):
        payloads = miniseed.encode(f"FDSN:XX_ST{number}__H_H_Z", 0, 100.0, np.arange(10, dtype=np.int32))
        assert_same(payloads, decoder.decode(b"".join(payloads), *places(payloads)))
        assert len(decoder._kinds.sids) <= 3


def test_a_record_that_would_last_for_centuries_is_counted_and_ends_nothing() -> None:
    """At a sample a day and a bit; its duration does not fit 64 bits in ns."""
    zeros = np.zeros(100_000, np.int32)
    (payload,) = miniseed.encode("FDSN:XX_SLOW__L_H_Z", 0, 1e-5, zeros, record_length=1 << 17, version=3)
    (batch,) = RecordDecoder().decode(payload, [0], [len(payload)])
    assert isinstance(batch, RecordBatch)
    channels = Channels(CollectorRegistry())
    channels.took_batch("a:1", batch)
    assert next(sample.value for metric in channels.collect() for sample in metric.samples) == 100_000
    DataAge({"a:1": 1.0}).arrived_batch("a:1", batch, 1)
