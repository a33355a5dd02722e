"""Events as the page shows them: names and verdicts that hold now, times as the site reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from tscc_stream.apps.console.event_index import Look
from tscc_stream.apps.console.event_names import Names
from tscc_stream.apps.console.event_verdicts import Judged
from tscc_stream.apps.console.site import Site
from tscc_stream.edges.console_cache_events import Place, Verdict
from tscc_stream.edges.journal_events import StoredEvent
from tscc_stream.edges.people import Said
from tscc_stream.source_id import to_nslc
from tscc_stream.stages.interpret import UNKNOWN
from tscc_stream.stages.publish import iso_time
from tscc_stream.verdicts import is_withdrawn

MOST_MEMBERS = 64
"""Detections of a network event that are looked at."""
Document = dict[str, Any]


def time_of(site: Site, time_ns: int) -> Document:
    """date, clock (tenths of a second) and offset at the site; the same in UTC. ns is text: JavaScript's numbers are
    too coarse.
    """
    local: datetime = site.local(time_ns)
    tenths = time_ns % 1_000_000_000 // 100_000_000
    return {
        "ns": str(time_ns),
        "date": local.strftime("%Y-%m-%d"),
        "clock": f"{local:%H:%M:%S}.{tenths}",
        "zone": local.strftime("%Z"),
        "utc": iso_time(time_ns).replace("T", " ").replace("Z", " UTC"),
    }


def verdict_of(site: Site, verdict: Verdict | None) -> Document | None:
    """Who said what, when."""
    if verdict is None:
        return None
    when = time_of(site, verdict.at_ns)
    return {"name": verdict.name, "agrees": verdict.agrees, "who": verdict.who, "time": when}


class Documents:
    """For one request."""

    def __init__(self, site: Site, now: Look) -> None:
        self._site, self._now = site, now
        self.names = Names(site)
        self._labels = now.index.labels()

    def rows(self, places: Sequence[Place]) -> list[Document]:
        """One each, in order, of those that the journal still has."""
        uids = [place.uid for place in places]
        stored, verdicts = self._now.journal.of_uids(uids), self._now.verdicts.of(uids)
        return [self.row(stored[uid], verdicts.get(uid)) for uid in uids if uid in stored]

    def row(self, event: StoredEvent, verdict: Verdict | None) -> Document:
        """What the list shows of an event."""
        data = msgspec.json.decode(event.body)["data"]
        of_kind = self._network(data) if event.kind == "network" else self._detection(event, data)
        name = of_kind["name"]
        return {
            "seq": event.seq,
            "uid": event.uid,
            "kind": event.kind,
            "time": time_of(self._site, event.onset_ns),
            "colour": self.names.colour(name),
            "duration_s": data["duration_s"],
            "verdict": verdict_of(self._site, verdict),
            **of_kind,
        }

    def _detection(self, event: StoredEvent, data: Document) -> Document:
        cluster, sha256 = data["cluster"], data["model"]["sha256"]
        names = self.names.of_clusters(len(cluster["membership"]), sha256)
        return {
            "name": self.names.now(sha256, cluster["id"], cluster["name"]),
            "known": cluster["known"],
            "channels": [to_nslc(event.sid)],
            "cluster": cluster["id"],
            "nearest": names[cluster["id"]],
            "membership": cluster["membership"][cluster["id"]],
            "memberships": [
                {"name": name, "share": share, "colour": self.names.colour(name)}
                for name, share in zip(names, cluster["membership"], strict=True)
            ],
            "p_value": cluster["p_value"],
            "peak_ratio": data["peak_ratio"],
            "peak_amplitude": data["peak_amplitude"],
            "model": data["model"],
            "quality": data["quality"],
            "late": data["late"],
        }

    def _network(self, data: Document) -> Document:
        stored = self._now.journal.of_uids(data["detections"][:MOST_MEMBERS])
        members = [msgspec.json.decode(event.body)["data"] for event in stored.values()]
        model = members[0]["model"] if members else None
        then = self.names.translated(self._labels, model["sha256"]) if model else {}
        cluster = data["cluster"]
        votes = {then.get(name, name): count for name, count in data["votes"].items()}
        return {
            "name": self.names.now(model["sha256"], cluster["id"], cluster["name"]) if model else cluster["name"],
            "known": cluster["id"] is not None,
            "cluster": cluster["id"],
            "channels": [to_nslc(sid) for sid in data["channels"]],
            "detections": data["detections"],
            "votes": [
                {"name": name, "count": count, "colour": self.names.colour(name)} for name, count in votes.items()
            ],
            "final": data["final"],
            "model": model,
            "quality": sorted({flag for member in members for flag in member["quality"]}),
            "late": False,
        }

    def judged(self, uids: Sequence[str]) -> list[Judged]:
        """Events as they stand, those that the journal has."""
        rows = [self.row(event, None) for event in self._now.journal.of_uids(uids).values()]
        return [Judged(row["uid"], row["name"], row["cluster"]) for row in rows]

    def history(self, said: Sequence[Said]) -> list[Document]:
        """Verdicts on one event, the latest first."""
        return [
            {
                "name": entry.document.get("name"),
                "agrees": entry.document.get("agrees"),
                "undo": bool(entry.document.get("undo")),
                "withdrawn": is_withdrawn(entry),
                "who": entry.who,
                "time": time_of(self._site, entry.at_ns),
            }
            for entry in reversed(said)
        ]

    def precision(self) -> list[Document]:
        """By name: on how many detections people gave a verdict, and with how many the model had agreed."""
        totals: dict[str, tuple[int, int]] = {}
        counts: Mapping[int, tuple[int, int]] = self._now.verdicts.counts()
        for label in self._labels:
            judged, agreed = counts.get(label.number, (0, 0))
            name = self.names.of_label(label)
            before = totals.get(name, (0, 0))
            totals[name] = before[0] + judged, before[1] + agreed
        return [
            {"name": name, "colour": self.names.colour(name), "judged": judged, "agreed": agreed}
            for name, (judged, agreed) in sorted(totals.items())
            if judged
        ]

    def all_names(self) -> list[str]:
        """Of clusters that any event has, for the filter."""
        return sorted({self.names.of_label(label) for label in self._labels} | {UNKNOWN})
