"""What the page Events is made of, without a browser: nearest vectors, spectrograms, filters in local time, undo."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_time import PATIENCE_S
from made_messages import detection, detection_message, network_message
from made_site import settings
from starlette.requests import Request

from tscc_stream import config
from tscc_stream.apps.console import event_verdicts, events, health_facts
from tscc_stream.apps.console.event_choice import Asked, ChoiceError, asked, choice_of
from tscc_stream.apps.console.event_documents import Documents
from tscc_stream.apps.console.event_index import Look, catch_up, look, share_done
from tscc_stream.apps.console.event_names import Names
from tscc_stream.apps.console.event_upkeep import EventUpkeep
from tscc_stream.apps.console.event_verdicts import Judged, judge, take_back
from tscc_stream.apps.console.events import Events
from tscc_stream.apps.console.feed import Feed
from tscc_stream.apps.console.live import Live
from tscc_stream.apps.console.neighbourhood import Neighbourhood
from tscc_stream.apps.console.site import NotThereError, Site
from tscc_stream.apps.console.spectrogram import RANGE_DB, as_bytes, spectrogram
from tscc_stream.apps.console.wall import Wall
from tscc_stream.apps.console.wall_page import Choice as WallChoice
from tscc_stream.apps.console.web import Console
from tscc_stream.edges.console_cache import CacheFile
from tscc_stream.edges.console_cache_events import MOST_PAGE, Choice, EventIndex, Indexed, VerdictMirror
from tscc_stream.edges.sqlite import JournalFile
from tscc_stream.messages import Message
from tscc_stream.stages.publish import ModelIdentity, Publish


@given(st.integers(1, 300), st.integers(1, 30), st.integers(0, 2**32 - 1), st.integers(0, 400))
def test_the_nearest_are_those_of_a_plain_sort(count: int, most: int, seed: int, oldest: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, 3)).astype(np.float32)
    seqs = rng.permutation(count) + 100
    near = Neighbourhood(3)
    for at in range(0, count, 37):
        near.add(seqs[at : at + 37], vectors[at : at + 37])
    near.keep_from(oldest)
    kept = seqs >= oldest
    distances = np.linalg.norm(vectors[kept] - vectors[0], axis=1)
    found = near.nearest(vectors[0], most)
    assert np.allclose([distance for _, distance in found], np.sort(distances)[:most], atol=1e-5)
    by_seq = dict(zip(seqs[kept].tolist(), distances, strict=True))
    assert all(abs(by_seq[seq] - distance) < 1e-5 for seq, distance in found)
    assert len(near) == kept.sum()
    own = near.vector_of(int(seqs[0]))
    assert (own is not None and np.array_equal(own, vectors[0])) == bool(kept[0])
    lowest = near.lowest_of_newest(most)
    assert lowest == (sorted(seqs[kept].tolist())[-most] if kept.sum() > most else 0)


def test_a_spectrogram_has_its_peak_at_the_tone_and_its_power_in_the_right_unit() -> None:
    rate_hz, amplitude = 100.0, 40.0
    t = np.arange(500) / rate_hz
    tone = (amplitude * np.sin(2 * np.pi * 25.0 * t)).astype(np.float32)
    made = spectrogram(tone, rate_hz)
    assert made.db.mean(axis=1).argmax() * made.step_hz == pytest.approx(25.0, abs=made.step_hz)
    power = (10 ** (made.db / 10)).sum(axis=0) * made.step_hz
    assert np.allclose(power, amplitude**2 / 2, rtol=0.02)
    assert made.first_s + (made.db.shape[1] - 1) * made.step_s < 5.0
    assert made.db.shape[0] == round(rate_hz / 2 / made.step_hz) + 1
    picture = np.frombuffer(as_bytes(made.db, made.db.max()), np.uint8)
    assert picture.max() == 255
    assert np.frombuffer(as_bytes(made.db, made.db.max() + 2 * RANGE_DB), np.uint8).max() == 0


@pytest.mark.parametrize("samples", [1, 7, 8, 63, 64, 500, 4000])
def test_windows_of_any_length_have_a_spectrogram(samples: int) -> None:
    made = spectrogram(np.zeros(samples, np.float32), 50.0)
    assert np.isfinite(made.db).all()
    assert made.db.shape[1] >= 1


def _site(folder: Path, **over: object) -> Site:
    known = config.parse(json.dumps(settings(folder, **over)))  # type: ignore[arg-type]  # of any kind
    Path(known.state_dir).mkdir(exist_ok=True)
    return Site(known, folder)


@pytest.fixture
def sudbury(tmp_path: Path) -> Site:
    return _site(tmp_path, time_zone="America/Toronto")


def _index(site: Site) -> EventIndex:
    index = EventIndex(CacheFile(site.state_dir / "console.sqlite", "e"))
    named = [("m", 0, "blast"), ("m", 1, "cluster 1"), ("n", 1, "cluster 1")]
    channels = ("XX.A..HHZ", "XX.AB..HHZ", "YY.A..DHZ")
    events = [
        Indexed(i, f"u{i}", False, i, model, cluster, name, False, 1.0, 1, (), (channels[i],))
        for i, (model, cluster, name) in enumerate(named)
    ]
    index.add(events, (0, 2), 0)
    return index


def test_local_times_also_when_clocks_are_set_back(sudbury: Site) -> None:
    """2026-11-01 at two in the morning it was one o'clock again: half past one came twice."""
    index, names = _index(sudbury), Names(sudbury)
    ask = asked({"begin": "2026-11-01T01:30", "end": "2026-11-01T01:30", "page": "of no filter"})
    choice = choice_of(ask, index, names, sudbury.zone)
    assert choice.from_ns == 1_793_511_000 * 10**9
    assert choice.to_ns == (1_793_511_000 + 3600) * 10**9


@pytest.mark.parametrize(
    ("pattern", "found"),
    [("XX.A", 2), ("xx.a..", 1), ("*.HHZ", 2), ("??.A..*", 2), ("YY", 1), ("nothing", 0)],
)
def test_patterns_of_channels(sudbury: Site, pattern: str, found: int) -> None:
    choice = choice_of(Asked(channel=pattern), _index(sudbury), Names(sudbury), sudbury.zone)
    assert choice.channels is not None
    assert len(choice.channels) == found


def test_a_name_that_was_given_since_holds_for_what_came_before(sudbury: Site) -> None:
    with sudbury.people() as people:
        people.say("name", "n/1", {"name": "crusher", "colour": "#123456"}, "anna", 1)
    index, names = _index(sudbury), Names(sudbury)
    assert [names.of_label(label) for label in index.labels()] == ["blast", "cluster 1", "crusher"]
    choice = choice_of(Asked(name="crusher"), index, names, sudbury.zone)
    assert [place.uid for place in index.page(choice)] == ["u2"]


@pytest.mark.parametrize(
    "query", [{"votes": "-1"}, {"votes": "many"}, {"membership": "nan"}, {"end": "2026-13-01T00:00"}, {"span": "2h"}]
)
def test_filters_that_mean_nothing(sudbury: Site, query: dict[str, str]) -> None:
    with pytest.raises(ChoiceError, match=next(iter(query.values()))):
        choice_of(asked(query), _index(sudbury), Names(sudbury), sudbury.zone)


@given(st.lists(st.sampled_from(("blast", "noise", "drilling", "undo")), max_size=12))
def test_undo_leads_back_step_by_step(tmp_path_factory: pytest.TempPathFactory, acts: list[str]) -> None:
    site = _site(tmp_path_factory.mktemp("s"))
    cache = CacheFile(site.state_dir / "console.sqlite", "e")
    mirror, standing = VerdictMirror(cache), list[str]()
    event = Judged("u", "blast", 0)
    for act in acts:
        if act == "undo":
            take_back(site, [event], "anna")
            del standing[-1:]
        else:
            judge(site, [event], act, "anna")
            standing.append(act)
        event_verdicts.follow(site, mirror)
        now = mirror.of(["u"]).get("u")
        assert (now.name if now else None) == (standing[-1] if standing else None)
        assert now is None or now.agrees == (now.name == "blast")
    cache.close()


def test_the_console_never_loads_torch() -> None:
    begin = "import sys; import tscc_stream.apps.console.events; assert 'torch' not in sys.modules; print('ok')"

    done = subprocess.run(
        [sys.executable, "-P", "-c", begin], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("ok", "")


def test_messages_that_cannot_be_read_are_left_out_and_told(sudbury: Site, caplog: pytest.LogCaptureFixture) -> None:
    journal = JournalFile(sudbury.state_dir / "journal.sqlite")
    good = Publish("test", ModelIdentity("demo", "1", "0" * 64)).detection(detection())
    bad = network_message(9)
    bodies = (b"no JSON", b"[1]", b'{"data": {"detections": 3}}', b'{"data": {"detections": [[]], "cluster": {}}}')
    worse = [replace(bad, uid=f"worse-{number}", body=body) for number, body in enumerate(bodies)]
    journal.append([good, detection_message(7), network_message(8), *worse])
    journal.close()
    with look(sudbury) as now:
        catch_up(sudbury, now)
        assert [place.uid for place in now.index.page(Choice())] == [good.uid]
        assert share_done(now) == 1.0
    assert all(f"{uid}, seq {seq}, is left out" in caplog.text for uid, seq in (("detection-7", 2), ("worse-0", 4)))


def test_a_disk_that_fails_ends_no_thread(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A name that is too long stands for it: the system's error is of the same kind."""
    known = config.parse(json.dumps(settings(tmp_path)))
    site = Site(known.model_copy(update={"state_dir": str(tmp_path / ("x" * 300))}), tmp_path)
    upkeep, live = EventUpkeep(site), Live(site)
    upkeep.start()
    try:
        _until(lambda: "cannot be looked for" in upkeep.reason)
        assert upkeep._thread.is_alive()
    finally:
        upkeep.stop()
    live.look(time.time_ns(), 0.0)
    assert "cannot be looked for" in live._journal_reason
    found = health_facts.in_journal(site, 0)
    assert ("cannot be looked for" in found.unreadable, found.bytes) == (True, 0)
    assert health_facts.retention(site, found)["messages"] == 0
    with pytest.raises(NotThereError, match="cannot be looked for"), site.people():
        pass


def test_the_wall_and_live_go_on_after_a_turn_that_failed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    known = config.parse(json.dumps(settings(tmp_path)))
    tried = []

    def beside(first: bool) -> dict[str, Any]:
        tried.append(first)
        if len(tried) == 1:
            raise RuntimeError("of any kind")
        return {}

    async def until_told() -> str:
        page = Wall(known, lambda: (), beside).open(WallChoice((), 60, 1000))
        async for event in page.events():
            return event
        raise AssertionError

    assert "event: channels" in asyncio.run(asyncio.wait_for(until_told(), 20))
    assert "a turn of the wall failed" in caplog.text


def test_a_channel_without_settings_of_its_own_stops_no_page(caplog: pytest.LogCaptureFixture) -> None:
    """A configuration that got past its checks: the daemon refuses that channel alone, and so does the wall."""
    wrong = {"MN.*": config.ChannelConfig(assemble={"flat_seconds": -1.0})}
    made = config.Config().model_copy(update={"channels": wrong})
    sids = ("FDSN:MN_G1__G_H_Z", "FDSN:BW_G2__G_H_Z")

    async def until_told() -> str:
        page = Wall(made, lambda: sids, lambda _first: {}).open(WallChoice((), 60, 1000))
        async for event in page.events():
            return event
        raise AssertionError

    told = asyncio.run(asyncio.wait_for(until_told(), 20))
    assert '{"name":"BW.G2..GHZ","clip":8388000.0},{"name":"MN.G1..GHZ","clip":8388000.0}' in told
    assert "FDSN:MN_G1__G_H_Z is shown with the site's own section assemble" in caplog.text
    assert "a turn of the wall failed" not in caplog.text


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def test_an_older_stretch_that_comes_late_leaves_nothing_out(tmp_path: Path) -> None:
    """Two threads fill the cache: what does not touch what is there is left for later."""
    index = EventIndex(CacheFile(tmp_path / "console.sqlite", "e"))
    index.add([], (100, 120), 1)
    index.add([], (140, 150), 1)
    assert index.done() == (100, 120)
    index.add([], (121, 150), 1)
    index.add([], (10, 50), 1)
    assert index.done() == (100, 150)


def _message(number: int) -> Message:
    publish = Publish("test", ModelIdentity("demo", "1", "0" * 64))
    return publish.detection(detection(uid=f"u{number}", onset_ns=number * 10**10, start_ns=number * 10**10))


def _answer(handler: Callable[[Request], dict[str, Any]], **query: int) -> dict[str, Any]:
    text = "&".join(f"{key}={value}" for key, value in query.items())
    return handler(Request({"type": "http", "query_string": text.encode(), "headers": []}))


def _uids(answer: dict[str, Any]) -> list[str]:
    return [row["uid"] for row in answer["rows"]]


def test_a_list_that_was_away_for_long_gets_everything_page_by_page(sudbury: Site) -> None:
    page = Events(Console(sudbury, Feed(sudbury.endpoints)))
    count = 2 * MOST_PAGE + 7
    with JournalFile(sudbury.state_dir / "journal.sqlite") as journal:
        journal.append([_message(number) for number in range(count)])
    found: list[str] = []
    answer: dict[str, Any] = {"seq": 0, "people": 0, "more": True}
    while answer["more"]:
        answer = _answer(page.since, seq=answer["seq"], people=answer["people"])
        found += _uids(answer)
    assert found == [f"u{number}" for number in range(count)]
    assert answer["seq"] == count


def test_what_comes_while_the_list_is_answered_comes_with_the_next_question(
    sudbury: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The upkeep's thread fills the cache, and another console takes verdicts over, between two reads of a request."""
    page = Events(Console(sudbury, Feed(sudbury.endpoints)))
    with JournalFile(sudbury.state_dir / "journal.sqlite") as journal:
        journal.append([_message(0)])
        with look(sudbury) as other:

            def meanwhile() -> None:
                number = journal.head
                journal.append([_message(number)])
                judge(sudbury, [Judged("u0", "x", 0)], f"name {number}", "eve")
                catch_up(sudbury, other)

            class Slow(Documents):
                def rows(self, places: Any) -> Any:
                    made = super().rows(places)
                    meanwhile()
                    return made

            monkeypatch.setattr(events, "Documents", Slow)
            first = _answer(page.rows)
            assert (_uids(first), first["rows"][0]["verdict"]) == (["u0"], None)
            second = _answer(page.since, seq=first["seq"], people=first["people"])
            assert (_uids(second), second["verdicts"]["u0"]["name"]) == (["u1"], "name 1")
            third = _answer(page.since, seq=second["seq"], people=second["people"])
            assert (_uids(third), third["verdicts"]["u0"]["name"]) == (["u2"], "name 2")


def test_a_verdict_that_the_cache_does_not_have_yet_is_told_later(
    sudbury: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Events(Console(sudbury, Feed(sudbury.endpoints)))
    with JournalFile(sudbury.state_dir / "journal.sqlite") as journal:
        journal.append([_message(0)])
    waiting = ["blast"]

    def follow_and_say(site: Site, now: Look) -> None:
        catch_up(site, now)
        for name in waiting:
            judge(site, [Judged("u0", "x", 0)], name, "eve")

    monkeypatch.setattr(events, "catch_up", follow_and_say)
    answer = _answer(page.since, seq=0, people=0)
    assert (answer["verdicts"], answer["people"]) == ({}, 0)
    waiting.clear()
    assert _answer(page.since, seq=0, people=answer["people"])["verdicts"]["u0"]["name"] == "blast"
