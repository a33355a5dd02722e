"""The fuzzed inputs that are kept, and some thousands of new ones by seed: nothing but the named errors comes out.

tests/fuzz/run.py goes on from there, with coverage to lead it.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
from fuzz.inputs import DAMAGE, payloads_of, pieces_of, with_crc, with_lengths
from fuzz.seeds import CORPUS, corpus, made
from fuzz.targets import TARGETS, Finding
from made_streams import package_spec, sid_of
from seedlink_fakes import FakeServer, record, v4

from tscc_stream import miniseed
from tscc_stream.config import Config, SeedLinkConfig
from tscc_stream.messages import Record
from tscc_stream.miniseed import encode
from tscc_stream.pipeline import FrontHalf
from tscc_stream.seedlink.position import Position, Server
from tscc_stream.seedlink.tracker import MOST_STATIONS, Tracker
from tscc_stream.stages import acquire

INPUTS = [
    pytest.param(target, data, id=f"{target}-{name}") for target in TARGETS for name, data in corpus(target).items()
]
BATCH = 500


@pytest.mark.parametrize(("target", "data"), INPUTS)
def test_the_corpus(target: str, data: bytes) -> None:
    assert TARGETS[target](data) >= 1


@pytest.mark.parametrize("batch", range(3))
@pytest.mark.parametrize("target", TARGETS)
def test_damaged_inputs(target: str, batch: int) -> None:
    inputs = list(corpus(target).values())
    for number in range(batch * BATCH, (batch + 1) * BATCH):
        rng = random.Random(number)  # noqa: S311 - the same inputs every time
        data = DAMAGE[target](rng, rng.choice(inputs))
        try:
            TARGETS[target](data)
        except Exception as error:
            raise AssertionError(f"input {number} of {target}: {data[:80].hex()}... ({len(data)} bytes)") from error


def test_the_corpus_is_made_by_its_program_and_small() -> None:
    for target, inputs in made().items():
        assert {name: corpus(target)[name] for name in inputs} == inputs
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < 200_000


def test_inputs_are_taken_apart_without_a_rest() -> None:
    stream = v4(1, record()) + b"OK\r\n" + v4(2, record(second=1)) + b"END"
    assert [piece[:2] for piece in pieces_of(stream)] == [b"SE", b"OK", b"SE", b"EN"]
    assert b"".join(pieces_of(stream)) == stream
    payloads = [b"one", b"", b"three"]
    assert payloads_of(with_lengths(payloads)) == payloads


def test_a_checksum_fits_again() -> None:
    (whole,) = encode("FDSN:XX_A__H_H_Z", 10**18, 100.0, np.arange(9, dtype=np.int32), version=3)
    assert with_crc(whole) == whole
    assert with_crc(whole[:-1] + b"x") != whole[:-1] + b"x"


def test_a_target_sees_what_must_not_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acquire.SeedLinkSession, "_fail", lambda *_: acquire.SessionError("nonsense", "x"))
    with pytest.raises(Finding):
        TARGETS["session"](b"\1\0garbage")


# What was found, and is mended


@pytest.mark.parametrize("name", ["BW_UH1\r\nBYE", "BW_UH1 X", "BW_*", "BW_\xff", "B" * 65])
def test_a_servers_words_never_become_a_command(name: str) -> None:
    """Marks of stations that match a pattern are asked for by name at the next connection."""
    tracker = Tracker(Position(), "oldest")
    tracker.begin(Server(4))
    tracker.advance(name, 7, 0)
    tracker.advance("BW_UH2", 8, 0)
    assert [station for station, _ in tracker.position.stations] == ["BW_UH2"]


def test_stations_with_a_mark_are_limited() -> None:
    tracker = Tracker(Position(), "oldest")
    tracker.begin(Server(4))
    for number in range(MOST_STATIONS + 5):
        tracker.advance(f"XX_S{number}", number + 1, number)
    stations = tracker.position.stations
    assert (len(stations), stations[0][0], stations[-1][0]) == (MOST_STATIONS, "XX_S5", f"XX_S{MOST_STATIONS + 4}")
    assert [station for station, _ in tracker.position.times] == [station for station, _ in stations]
    assert tracker.request("XX_S0") == ("time", "DATA ALL 1970-01-01T00:00:00.000000Z")


def test_rates_of_a_channel_are_forgotten_in_the_end() -> None:
    front = FrontHalf(Config(), package_spec())
    samples = np.arange(10, dtype=np.int32)
    for number in range(100):
        front.feed(Record(sid_of(1), number * 10**9, 100.0 + number * 1e-6, samples))
    assert len(front._served[sid_of(1)]) <= 64


def test_long_extra_headers_are_read_and_not_remembered() -> None:
    head = miniseed.header(encode("FDSN:XX_A__H_H_Z", 10**18, 100.0, np.arange(9, dtype=np.int32), version=3)[0])
    before = miniseed._remembered_quality.cache_info().currsize
    for number in range(50):
        head.extra = f'{{"FDSN": {{"Time": {{"Quality": 10}}}}, "x": "{number}{"y" * 2000}"}}'
        assert miniseed.quality_of(head) == {"timing"}
    assert miniseed._remembered_quality.cache_info().currsize == before


@pytest.mark.parametrize(
    ("payload", "reason"),
    [(b"x" * 512, "malformed"), (record().replace(b"UH1", b"U\n1", 1), "source"), (b"", "malformed")],
)
def test_a_servers_words_are_told_in_one_short_line(payload: bytes, reason: str) -> None:
    """Whatever stands in for a station id or its codes: no line end gets into a log, and no escape to a terminal."""
    name = "BW_\x1b[2J\n" + "x" * 200
    session = acquire.SeedLinkSession(SeedLinkConfig(server="mine:18000", streams=("BW_*",)), Position(), 0)
    server = FakeServer()
    while answer := server.feed(session.to_send()):
        session.receive(answer, 0)
    broken = v4(2, b"", name)[:4] + b"\xff" * 4 + v4(2, b"", name)[8:]
    rejected, ended = session.receive(v4(1, payload, name) + broken, 0)
    assert (rejected.reason, ended.reason) == (reason, "size")
    for text in (rejected.text, ended.text):
        assert text.isprintable()
        assert len(text) < 400
