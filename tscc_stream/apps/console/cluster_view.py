"""One look at a model's clusters over a period: detections, names, verdicts, put together for the page Clusters."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np

from tscc_stream import verdicts
from tscc_stream.apps.console.detections import Detections, Rows, of_period
from tscc_stream.apps.console.site import Site
from tscc_stream.package import Label, Package
from tscc_stream.source_id import to_nslc
from tscc_stream.verdicts import Precision, Verdict

PERIODS: dict[str, float | None] = {"8 h": 8, "24 h": 24, "7 d": 168, "30 d": 720, "all": None}
USUAL = "7 d"
GREY = "#8d99ae"
"""Of a cluster that nobody gave a colour."""


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """rows: of the live model in the period; others: detections of the period by other models, which are not shown."""

    site: Site
    package: Package
    rows: Rows
    sids: list[str]
    others: int
    period: str
    complete: bool
    verdicts: dict[str, Verdict]

    @property
    def clusters(self) -> range:
        return range(self.package.spec.clusters)

    @property
    def names(self) -> list[str]:
        return [self.package.name_of(cluster) for cluster in self.clusters]

    def members(self, cluster: int) -> Rows:
        """Known detections of it."""
        found: Rows = self.rows[self.rows["known"] & (self.rows["cluster"] == cluster)]
        return found

    @property
    def unknown(self) -> Rows:
        found: Rows = self.rows[~self.rows["known"]]
        return found

    def colour(self, cluster: int) -> str:
        label = self.package.label_of(cluster)
        return GREY if label is None else label.colour

    def label(self, cluster: int) -> Label:
        return self.package.label_of(cluster) or Label(name=self.package.name_of(cluster), colour=GREY)

    def share(self, count: int) -> float:
        return count / self.rows.size if self.rows.size else 0.0

    def channel(self, place: int) -> str:
        """NET.STA.LOC.CHA."""
        return to_nslc(self.sids[place])

    def channels(self, members: Rows) -> list[tuple[str, int]]:
        """NET.STA.LOC.CHA -> how many, most first."""
        counted = Counter(members["sid"].tolist())
        return [(self.channel(place), count) for place, count in counted.most_common()]

    def precision(self, members: Rows) -> Precision | None:
        """How often people agreed; None where nobody judged one of them."""
        said = [self.verdicts[uid] for uid in map(bytes.decode, members["uid"].tolist()) if uid in self.verdicts]
        return verdicts.precision(("members", one.agrees) for one in said).get("members")

    @property
    def span(self) -> tuple[int, int] | None:
        """First and last onset, ns; None where there is none."""
        if not self.rows.size:
            return None
        return int(self.rows["onset_ns"].min()), int(self.rows["onset_ns"].max())

    def when(self, ns: int) -> dict[str, str]:
        """A time for a template: in the site's zone, and UTC for the tooltip."""
        local = self.site.local(ns)
        utc = local - (local.utcoffset() or timedelta())
        short, whole = f"{local:%d %b %H:%M:%S}", f"{local:%d %b %Y %H:%M:%S}"
        return {"local": whole, "short": short, "utc": f"{utc:%Y-%m-%d %H:%M:%S} UTC"}


def look(site: Site, detections: Detections, period: str) -> View:
    """Raises NotThereError, JournalError, PackageError, ActivationError and PeopleError."""
    package = site.package()
    rows = of_period(detections.look(site), PERIODS[period])
    mine = rows["model"] == detections.models.place(package.sha256)
    with site.people() as people:
        judged = verdicts.given(people)
    return View(site, package, rows[mine], detections.sids, int(np.sum(~mine)), period, detections.complete, judged)


def period_of(query: Any) -> str:  # noqa: ANN401  # starlette's QueryParams
    """Out of a page's address; the usual one where it is another."""
    wanted = str(query.get("period", USUAL))
    return wanted if wanted in PERIODS else USUAL
