"""How often people agreed with a cluster: the same numbers on the pages, at the command line and in the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_journal import DEMO, END_NS, make_journal, name_cluster, pipeline_messages
from made_site import START_NS, write_settings

from tscc_stream import config
from tscc_stream.apps import judged, report_facts, shifts
from tscc_stream.apps.console import event_verdicts
from tscc_stream.apps.console.cluster_view import look as look_at_clusters
from tscc_stream.apps.console.detections import Detections
from tscc_stream.apps.console.event_documents import Documents
from tscc_stream.apps.console.event_index import catch_up, look
from tscc_stream.apps.console.event_verdicts import Judged
from tscc_stream.apps.console.site import Site
from tscc_stream.apps.journal_formats import SiteJournal
from tscc_stream.config import Config
from tscc_stream.package import Label

Numbers = dict[str, tuple[int, int]]
"""By name: agreed, judged."""


BY_HAND: Numbers = {}
"""Counted beside the program: the last verdict on each detection that nobody has taken back."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Every detection and network event was judged in the console, some of them twice, and some taken back."""
    BY_HAND.clear()
    folder = tmp_path_factory.mktemp("judged")
    messages = pipeline_messages(folder)
    make_journal(folder, messages)
    name_cluster(folder, 2, Label(name="orepass 3"))
    made = Site(config.load(write_settings(folder)), folder)
    found = [json.loads(message.body) for message in messages if message.kind in ("detection", "network")]
    for number, body in enumerate(found):
        cluster = body["data"]["cluster"]
        one = [Judged(body["id"], cluster["name"], cluster["id"])]
        said = [cluster["name"] if number % 3 else "noise"] + ["drilling"] * (number % 4 == 0)
        for who, name in zip(("mara", "eve"), said, strict=False):
            event_verdicts.judge(made, one, name, who)
        for _ in range((number % 2 == 0) + (number % 5 == 0)):
            event_verdicts.take_back(made, one, "mara")
            del said[-1:]
        if said and body["type"] == "tscc.detection.v1":
            _count(cluster, agrees=said[-1] == cluster["name"])
    return made


def _count(cluster: dict[str, Any], *, agrees: bool) -> None:
    name = "unknown" if not cluster["known"] else "orepass 3" if cluster["id"] == 2 else cluster["name"]
    agreed, judged = BY_HAND.get(name, (0, 0))
    BY_HAND[name] = agreed + agrees, judged + 1


def _on_events(site: Site) -> Numbers:
    with look(site) as now:
        catch_up(site, now)
        return {row["name"]: (row["agreed"], row["judged"]) for row in Documents(site, now).precision()}


def _on_clusters(site: Site) -> Numbers:
    view = look_at_clusters(site, Detections(), "all")
    found = {view.names[cluster]: view.precision(view.members(cluster)) for cluster in view.clusters}
    found["unknown"] = view.precision(view.unknown)
    return {name: (one.agreed, one.judged) for name, one in found.items() if one is not None}


def _at_the_command_line(site: Site) -> Numbers:
    found, gone = judged.of_site(site.config, site.folder)
    assert gone == 0
    assert {sha256 for sha256, _ in found} == {DEMO.sha256}
    return {name: (one.agreed, one.judged) for (_, name), one in found.items()}


def _in_the_report(settings: Config, folder: Path) -> Numbers:
    stored = SiteJournal(folder / "state" / "journal.sqlite", settings, folder)
    zone = shifts.ZoneInfo("UTC")
    span = shifts.between(*(shifts.local(at_ns, zone).isoformat() for at_ns in (START_NS, END_NS)), zone)
    try:
        facts = report_facts.gather(stored, "test", span, END_NS, folder / "state", lambda *_: None)
    finally:
        stored.close()
    return {name: (one.agreed, one.judged) for name, one in facts.precision().items()}


def test_all_say_the_same_numbers(site: Site) -> None:
    expected = _at_the_command_line(site)
    assert "orepass 3" in expected
    assert len(expected) > 1
    assert expected == BY_HAND, "what was taken back does not count"
    assert any(0 < agreed < judged for agreed, judged in expected.values())
    assert _on_events(site) == expected
    assert _on_clusters(site) == expected
    assert _in_the_report(site.config, site.folder) == expected
