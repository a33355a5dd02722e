"""The shift that is on and its counts, read from a real journal; what an operator is told first; a page's choice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from made_messages import status_message

from tscc_stream.apps.console import shift
from tscc_stream.apps.console.daemon_watch import Said, quarantined
from tscc_stream.apps.console.live_alerts import sentences
from tscc_stream.apps.console.recent import Recent, first_since
from tscc_stream.apps.console.shift import UNKNOWN, Shift, Tally
from tscc_stream.apps.console.wall import Wall
from tscc_stream.apps.console.wall_page import MOST_EVENTS, Choice, ChoiceError, WallPage
from tscc_stream.apps.console.wall_reader import Link
from tscc_stream.config import Config
from tscc_stream.edges.daemon_view import newest_samples
from tscc_stream.edges.sqlite import JournalFile, JournalReader
from tscc_stream.messages import Message

SHIFTS = {"day": "06:00-14:00", "afternoon": "14:00-22:00", "night": "22:00-06:00"}
JOBURG, SUDBURY = ZoneInfo("Africa/Johannesburg"), ZoneInfo("America/Toronto")
HOUR = 3600 * 10**9


def at(text: str, zone: ZoneInfo) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()) * 10**9


@pytest.mark.parametrize(
    ("now", "name", "begin", "end"),
    [
        ("2026-03-04T06:00:00", "day", "2026-03-04T06:00:00", "2026-03-04T14:00:00"),
        ("2026-03-04T13:59:59", "day", "2026-03-04T06:00:00", "2026-03-04T14:00:00"),
        ("2026-03-04T23:00:00", "night", "2026-03-04T22:00:00", "2026-03-05T06:00:00"),
        ("2026-03-05T03:00:00", "night", "2026-03-04T22:00:00", "2026-03-05T06:00:00"),
    ],
)
def test_the_shift_is_the_site_s_own_also_over_midnight(now: str, name: str, begin: str, end: str) -> None:
    found = shift.current(SHIFTS, JOBURG, at(now, JOBURG))
    assert found == Shift(name, at(begin, JOBURG), at(end, JOBURG))


def test_a_night_in_which_the_clocks_are_put_forward_is_an_hour_shorter() -> None:
    found = shift.current(SHIFTS, SUDBURY, at("2026-03-08T04:00:00", SUDBURY))
    assert (found.name, found.end_ns - found.begin_ns) == ("night", 7 * HOUR)


def test_between_shifts_the_last_eight_hours_are_shown() -> None:
    found = shift.current({"day": "06:00-14:00"}, JOBURG, at("2026-03-04T15:10:00", JOBURG))
    assert (found.name, found.end_ns - found.begin_ns) == ("", 8 * HOUR)
    assert found == shift.current({"day": "06:00-14:00"}, JOBURG, at("2026-03-04T15:29:00", JOBURG))


def test_what_lies_outside_the_shift_is_not_counted() -> None:
    tally = Tally(Shift("day", 0, 24 * HOUR))
    for hour in (-1, 0, 1, 1, 23, 24):
        tally.add(("sha", 1), hour * HOUR)
    assert tally.bins[("sha", 1)] == [1, 2, *[0] * 21, 1]


def detection(number: int, onset_ns: int, cluster: int = 1, *, known: bool = True) -> Message:
    data = {"onset_ns": onset_ns, "cluster": {"id": cluster, "known": known}, "model": {"sha256": "a" * 64}}
    return Message(
        uid=f"d{number}",
        kind="detection",
        topic=f"detection.{cluster}.XX.A..HHZ.",
        body=json.dumps({"id": f"d{number}", "data": data}).encode(),
        onset_ns=onset_ns,
        sid="FDSN:XX_A__H_H_Z",
    )


def event(onset_ns: int, *, final: bool) -> Message:
    body = json.dumps({"id": "n1", "data": {"onset_ns": onset_ns, "final": final}}).encode()
    return Message(uid="n1", kind="network", topic="network.1.", body=body, onset_ns=onset_ns, final=final)


def channel(number: int, **data: str) -> Message:
    body = json.dumps({"data": {"sid": "FDSN:XX_A__H_H_Z", **data}}).encode()
    return Message(uid=f"c{number}", kind="status", topic="status.channel.", body=body, onset_ns=number)


def test_the_journal_s_detections_of_the_shift_are_counted_once_and_go_on_with_what_comes(tmp_path: Path) -> None:
    now = Shift("day", 1000 * HOUR, 1008 * HOUR)
    recent = Recent(lambda _: now)
    with JournalFile(tmp_path / "journal.sqlite") as journal:
        old = [detection(n, 900 * HOUR + n * 10**9) for n in range(50)]
        journal.append([*old, status_message(1)])
        journal.append([detection(100 + n, 1001 * HOUR + n * 10**9, n % 2, known=n < 8) for n in range(10)])
        reader = JournalReader(journal.path)
        try:
            assert first_since(reader, 1001 * HOUR) == 51  # the status beside it is no detection
            assert first_since(reader, 2000 * HOUR) == 62
            assert first_since(reader, 0) == 1
            assert recent.read(reader, 0)
            assert recent.read(reader, 0)
            assert recent.begin_ns == 900 * HOUR
            counts = {cluster: sum(bins) for (_, cluster), bins in recent.tally.bins.items()}
            assert counts == {0: 4, 1: 4, UNKNOWN: 2}
            journal.append([detection(200, 1002 * HOUR), event(5, final=False), event(5, final=True)])
            journal.append([channel(1, quarantined="it breaks"), channel(2, released="well")])
            journal.append([channel(3, quarantined="it breaks again")])
            recent.read(reader, 0)
        finally:
            reader.close()
    assert sum(recent.tally.bins["a" * 64, 1]) == 5
    assert [one["body"]["data"]["final"] for one in recent.events.values()] == [True]
    assert recent.quarantined == {"FDSN:XX_A__H_H_Z": "it breaks again"}
    assert recent.detections[-1]["body"]["id"] == "d200"


def test_metrics_give_the_newest_sample_of_each_channel() -> None:
    text = (
        "# HELP tscc_last_sample_timestamp_seconds x\n"
        'tscc_last_sample_timestamp_seconds{sid="FDSN:XX_A__H_H_Z"} 1.7e+09\n'
        'tscc_samples_total{sid="FDSN:XX_A__H_H_Z"} 5.0\ntscc_channels_quarantined 2.0\n'
    )
    assert (newest_samples(text), quarantined(text)) == ({"FDSN:XX_A__H_H_Z": 1.7e9}, 2)
    cut_off = text[: text.index(" 1.7e+09")]
    assert (newest_samples(cut_off), quarantined(cut_off)) == ({}, 0)


def test_the_operator_is_told_what_is_wrong_in_sentences() -> None:
    well = {"state": "ok", "servers": {"a:1": "connected"}, "data": {"a:1": {"state": "OK", "age_s": 0.1}}}
    assert sentences(Said(well), [Link("a:1", True, "connected")], {}, "") == []
    assert "daemon does not answer (refused)" in sentences(Said(reason="refused"), [], {}, "")[0]
    down = {"state": "journal", "reason": "disk full", "servers": {"a:1": "not connected"}}
    told = sentences(
        Said(down, quarantined=1), [Link("a:1", False, "cannot reach a:1")], {"FDSN:XX_A__H_H_Z": "it breaks"}, "gone"
    )
    assert [sentence.partition(":")[0] for sentence in told] == [
        "The journal cannot be written, nothing goes out",
        "The daemon is not connected to a",
        "The console does not get waveforms from a",
        "Detections cannot be read",
        "1 channel is left out until well again",
    ]
    silent = well | {"data": {"a:1": {"state": "SILENT", "age_s": 70.0}}}
    assert sentences(Said(silent), [], {}, "") == ["a:1 is connected and sends nothing, for 70 s"]
    old = well | {"data": {"a:1": {"state": "OLD", "age_s": 70.0}}}
    (sentence,) = sentences(Said(old), [], {}, "")
    assert "a:1 has only data older than what was already seen, for 70 s" in sentence
    never = well | {"data": {"a:1": {"state": "SILENT", "age_s": None}}}
    assert sentences(Said(never), [], {}, "") == ["a:1 is connected and has sent nothing yet"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"channels": "XX.A..HHZ,<b>"}, "NET.STA.LOC.CHA"),
        ({"channels": ",".join(["A"] * 101)}, "at most 100"),
        ({"span": "61"}, "expected one of"),
        ({"columns": "5000"}, "expected 50 to 4000"),
        ({"columns": "-5"}, "whole number"),
        ({"columns": "9" * 5000}, "whole number"),
    ],
)
def test_what_a_page_cannot_show_is_refused_in_a_sentence(query: dict[str, str], said: str) -> None:
    with pytest.raises(ChoiceError, match=said):
        Choice.of(query)


def test_a_choice_keeps_its_order_and_its_bounds() -> None:
    there = [f"XX.S{n:03d}..HHZ" for n in range(150)]
    assert Choice.of({"channels": "xx.s003*,XX.S00?..HHZ"}).among(there)[:3] == (there[3], *there[:2])
    assert len(Choice.of({"channels": "*"}).among(there)) == 100
    assert Choice.of({}).among(there) == tuple(there[:12])
    assert Choice.of({"span": "10", "columns": "1000"}).column_ns == 10_000_000


def test_a_page_that_was_behind_is_told_everything_again() -> None:
    """The red line, the clusters and the counts too, though they have not changed since."""
    beside = {"alerts": {"sentences": ["the daemon does not answer"]}, "words": {"OK": 3}}
    wall = Wall(Config(), lambda: (), lambda first: {"recent": []} if first else beside)

    async def told(page: WallPage) -> list[str]:
        """Names of the events that wait for it."""
        await asyncio.sleep(0)
        page.put("event: end\n")
        found = [text.split()[1] async for text in _until_end(page)]
        return [name for name in found if name != "filler"]

    async def turns() -> None:
        page = WallPage(Choice((), 60, 1000))
        wall._tell([(page, ())], {})
        assert await told(page) == ["channels", "states", "alerts", "words", "recent"]
        wall._tell([(page, ())], {})
        assert await told(page) == ["states"]
        for _ in range(MOST_EVENTS + 1):
            page.put("event: filler\n")
        await asyncio.sleep(0)
        wall._tell([(page, ())], {})
        assert await told(page) == ["channels", "states", "alerts", "words", "recent"]

    asyncio.run(turns())


async def _until_end(page: WallPage) -> AsyncIterator[str]:
    async for event in page.events():
        if event == "event: end\n":
            return
        yield event
