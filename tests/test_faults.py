"""Every fault of links and of input, through a socket into the daemon's process, all at once.

One process holds a faulty server per fault, one daemon reads them all. Each fault has two channels of its own: BAD,
whose records are tampered with where the fault is one of input, and GOOD. What is published is compared with what
`classify` finds in the same recordings without what the ledger of gaps says is lost; GOOD must not differ at all.
TSCC_FAULT_TABLE names a file for the table of what happened.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults_of_input import INPUT_FAULTS
from faults_of_links import LINK_FAULTS
from faulty_process import FaultyProcess
from in_time import PATIENCE_S
from made_site import RATE_HZ, START_NS, Running, samples_of, settings
from test_daemon import get, listen

from tscc_stream import classifier, config, miniseed, package
from tscc_stream.edges.sqlite import JournalReader
from tscc_stream.gap_causes import LOST
from tscc_stream.source_id import from_nslc
from tscc_stream.stages.journal import GapEntry

SPEED = 12
QUIET_SECONDS = 3.0
LINKS = (*LINK_FAULTS, "poison_size=poison_record", "endless_data=endless_line", "gone=outage")
INPUTS = tuple(INPUT_FAULTS)
LABELS = tuple(name.partition("=")[0] for name in (*LINKS, *INPUTS))
NETWORK_OF = {label: f"{chr(65 + number // 26)}{chr(65 + number % 26)}" for number, label in enumerate(LABELS)}
OPTIONS = (
    *(
        "stall:seconds=3",
        "stall_silent:seconds=3",
        "outage:seconds=2",
        "ring_reset:seconds=2",
        "ring_overrun:seconds=2",
    ),
    *("poison_size:kind=size", "endless_data:where=data", "v3_wrap:before=40", "slow_drip:rate=8000"),
    *("clock_forward:count=4", "clock_back:count=4", "rate_change:count=4"),
    *(f"{label}:channel=_BAD_" for label in INPUTS),
    *(f"{label}:after=30" for label in INPUTS),
)
RETURNING = ("refused", "black_hole", "gone")
"""Servers that come back when they are told to."""
LOSING = {
    "ring_overrun": "ring overrun",
    "poison_record": "bad record",
    "poison_size": "bad record",
}
"""Faults of links that lose data, and under which cause."""
CAUSES = {
    "out_of_order": {"server"},
    "late_record": {"server"},
    "clock_forward": {"server"},
    "clock_back": {"server"},
    "leap_second": {"conflict"},
    "rate_change": {"rate"},
    "corrupt_steim": {"bad record"},
    "vanish_appear": {"server"},
    "one_sample_gaps": {"server", "quarantined"},
    "nan": {"invalid"},
}
"""What the ledger says of the tampered channel; of other faults of input nothing."""
REASONS = {
    "zero_length": "empty",
    "text_record": "text",
    "event_record": "empty",
    "wrong_length": "corrupt",
    "corrupt_steim": "corrupt",
    "unknown_encoding": "encoding",
    "json_packet": "format",
    "unasked_channel": "unwanted",
}
"""Why records were refused."""


def bad(label: str) -> str:
    return f"{NETWORK_OF[label]}.BAD..HHZ"


def good(label: str) -> str:
    return f"{NETWORK_OF[label]}.GOOD..HHZ"


def write(path: Path, number: int, nslc: str, lost: list[GapEntry]) -> None:
    samples = samples_of(number)
    keep = np.ones(samples.size, dtype=bool)
    for entry in lost:
        assert entry.to_ns is not None
        first, last = (round((at_ns - START_NS) / 1e9 * RATE_HZ) for at_ns in (entry.from_ns, entry.to_ns))
        keep[first:last] = False
    edges = np.flatnonzero(np.diff(keep.astype(np.int8), prepend=0, append=0)).reshape(-1, 2).tolist()
    with path.open("wb") as file:
        for first, last in edges:
            start_ns = START_NS + round(first / RATE_HZ * 1e9)
            file.writelines(miniseed.encode(from_nslc(nslc), start_ns, RATE_HZ, samples[first:last]))


def write_archive(folder: Path, ledger: dict[str, list[GapEntry]] | None = None) -> Path:
    """A folder per fault."""
    for number, label in enumerate(LABELS):
        (folder / label).mkdir(parents=True)
        for offset, nslc in enumerate((bad(label), good(label))):
            lost = (ledger or {}).get(from_nslc(nslc), [])
            write(folder / label / f"{nslc}.mseed", (2 * number + offset) % 16, nslc, lost)
    return folder


Found = dict[str, dict[str, Any]]
"""Detections by uid: the data of their messages."""


@dataclass
class Outcome:
    """What came of it all. found, expected: by source id. seconds: until data flowed after a server's return."""

    found: dict[str, Found]
    expected: dict[str, Found]
    ledger: dict[str, list[GapEntry]]
    status: list[dict[str, Any]]
    metrics: str
    seconds: dict[str, float] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)

    def causes(self, nslc: str) -> set[str]:
        return {entry.cause for entry in self.ledger.get(from_nslc(nslc), [])}

    def told(self, label: str) -> list[dict[str, Any]]:
        """What was said of a fault's server."""
        return [data for data in self.status if data.get("server") == self.addresses[label]]


def classified(folder: Path, known: dict[str, Any]) -> dict[str, Found]:
    out = io.StringIO()
    classifier.classify([folder], config.parse(json.dumps(known)), package.find("models/demo"), "jsonl", out)
    return by_channel(json.loads(line) for line in out.getvalue().splitlines())


def by_channel(bodies: Any) -> dict[str, Found]:
    found: dict[str, Found] = defaultdict(dict)
    for body in bodies:
        assert body["id"] not in found[body["subject"]], "a detection came twice"
        found[body["subject"]][body["id"]] = body["data"]
    return found


def servers_of(process: FaultyProcess, secret: Path) -> list[dict[str, Any]]:
    entries = []
    for label in LABELS:
        entry: dict[str, Any] = {
            "server": process.addresses[label],
            "streams": [f"{NETWORK_OF[label]}_*:HHZ"],
            "timeout_seconds": 2.0,
            "keepalive_seconds": 1.0,
        }
        if label == "auth":
            entry |= {"user": "mine", "password_file": str(secret)}
        if label == "tls":
            entry |= {"tls": True, "tls_ca_file": process.wait_for("tls", "certificate")["path"]}
        entries.append(entry)
    return entries


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("faults")
    secret = folder / "password"
    secret.write_text("open\n")
    archive = write_archive(folder / "archive")
    faults = [f"{name}@{archive / name.partition('=')[0]}" for name in (*LINKS, *INPUTS)]
    with FaultyProcess(*faults, options=OPTIONS, speed=SPEED) as process:
        known = settings(folder, seedlink=servers_of(process, secret))
        del known["network"]
        path = folder / "site.yaml"
        path.write_text(json.dumps(known))
        with Running("run", "--config", path) as running:
            running.wait_for("ready: ")
            where = json.loads((folder / "state" / "endpoints.json").read_text())
            bodies = _follow(process, where)
            metrics = get(where, "/metrics")
            assert running.stop() == 0
        seconds = {label: process.recovery_seconds(label) for label in LABELS if process.of(label, "up")}
        addresses = process.addresses
    reader = JournalReader(folder / "state" / "journal.sqlite")
    ledger: dict[str, list[GapEntry]] = defaultdict(list)
    for entry in reader.gaps():
        ledger[entry.sid].append(entry)
    reader.close()
    expected = classified(write_archive(folder / "left", _lost_by_links(ledger)), known)
    found = by_channel(body for body in bodies if body["type"] == "tscc.detection.v1")
    status = [body["data"] for body in bodies if body["type"] == "tscc.status.v1"]
    result = Outcome(found, expected, ledger, status, metrics, seconds, addresses)
    if table := os.environ.get("TSCC_FAULT_TABLE"):
        Path(table).write_text(_table(result))
    return result


def _lost_by_links(ledger: dict[str, list[GapEntry]]) -> dict[str, list[GapEntry]]:
    """What to leave out of the recordings: of channels whose records nobody tampered with."""
    tampered = {from_nslc(bad(label)) for label in INPUTS}
    return {
        sid: [entry for entry in entries if entry.cause in LOST]
        for sid, entries in ledger.items()
        if sid not in tampered
    }


def _follow(process: FaultyProcess, where: dict[str, Any]) -> list[dict[str, Any]]:
    """Everything published, until every server was read to its end and nothing more comes."""
    bodies: list[dict[str, Any]] = []
    told: set[str] = set()
    deadline = time.monotonic() + PATIENCE_S
    with listen(where) as everything:
        while True:
            received = everything.receive(QUIET_SECONDS)
            if received is not None:
                bodies.append(received.body)
            for label in set(RETURNING) - told:
                if process.of(label, "down") or (label != "gone" and len(bodies) > 10):
                    process.tell("return", label)
                    told.add(label)
            open_still = [label for label in LABELS if not process.of(label, "all_sent")]
            if received is None and not open_still:
                return bodies
            assert time.monotonic() < deadline, f"not read to the end: {open_still}"


def _table(outcome: Outcome) -> str:
    lines = []
    for label in LABELS:
        said = [data.get("reason", "") for data in outcome.told(label) if not data.get("connected", True)]
        well = outcome.seconds.get(label)
        lost = {
            nslc.split(".")[1]: ", ".join(
                f"{cause} {sum((e.to_ns or e.from_ns) - e.from_ns for e in entries if e.cause == cause) / 1e9:.2f} s"
                for cause in sorted({e.cause for e in entries})
            )
            for nslc in (bad(label), good(label))
            if (entries := outcome.ledger.get(from_nslc(nslc), []))
        }
        detections = [len(outcome.found.get(from_nslc(nslc), {})) for nslc in (bad(label), good(label))]
        lines.append(
            f"{label:18} {'/'.join(dict.fromkeys(said)) or '-':28} {'' if well is None else f'{well:.2f} s':8} "
            f"{detections} {lost or '-'}"
        )
    return "\n".join(lines) + "\n"


def assert_same(found: Found, expected: Found) -> None:
    """The same to the bit, but for the memberships, which batches round, and what names the model."""
    assert set(found) == set(expected)
    for uid, data in expected.items():
        got = found[uid]
        assert np.allclose(got["cluster"]["membership"], data["cluster"]["membership"], rtol=0.0, atol=1e-5)
        for key in ("onset_ns", "peak_ratio", "peak_amplitude", "duration_s", "window", "quality"):
            assert got[key] == data[key], (uid, key)
        assert got["cluster"]["id"] == data["cluster"]["id"]


@pytest.mark.parametrize("label", LABELS)
def test_the_other_channel_is_what_it_is_without_the_fault(label: str, outcome: Outcome) -> None:
    """Where the fault is of the link, both channels are, but for what the ledger says is lost."""
    sid = from_nslc(good(label))
    assert len(outcome.expected[sid]) >= 3
    assert_same(outcome.found[sid], outcome.expected[sid])
    if label not in LOSING:
        assert outcome.causes(good(label)) == set()


@pytest.mark.parametrize("label", [name.partition("=")[0] for name in LINKS])
def test_a_fault_of_the_link_loses_what_the_ledger_says_and_nothing_else(label: str, outcome: Outcome) -> None:
    sid = from_nslc(bad(label))
    assert_same(outcome.found[sid], outcome.expected[sid])
    causes = outcome.causes(bad(label)) | outcome.causes(good(label))
    assert causes == ({LOSING[label]} if label in LOSING else set())
    if label in outcome.seconds:
        assert outcome.seconds[label] < 10.0


@pytest.mark.parametrize("label", INPUTS)
def test_a_fault_of_input_has_its_name_in_the_ledger_and_in_the_metrics(label: str, outcome: Outcome) -> None:
    assert outcome.causes(bad(label)) == CAUSES.get(label, set())
    assert {data["reason"] for data in outcome.told(label) if "reason" in data} == {"connected"}
    if label in REASONS:
        assert f'tscc_records_rejected_total{{reason="{REASONS[label]}"}}' in outcome.metrics
