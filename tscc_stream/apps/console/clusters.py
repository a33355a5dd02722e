"""The page Clusters: what the model's clusters are, and what people call them."""

from __future__ import annotations

import json
import time
from importlib import resources
from typing import Any

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from tscc_stream import names
from tscc_stream.apps.console.access import who
from tscc_stream.apps.console.cluster_charts import DASHES, hours_chart, spectrum_chart
from tscc_stream.apps.console.cluster_families import FamilyPages
from tscc_stream.apps.console.cluster_view import PERIODS, View, look, period_of
from tscc_stream.apps.console.detections import Detections, Rows
from tscc_stream.apps.console.gallery import Shown, border, per_hour_of_day, typical
from tscc_stream.apps.console.journal_windows import band_passed_at
from tscc_stream.apps.console.site import NotThereError, Site
from tscc_stream.apps.console.spectra import MOST_WINDOWS, Spectrum, mean_spectrum
from tscc_stream.apps.console.trace_picture import picture
from tscc_stream.apps.console.web import Console
from tscc_stream.edges.obspy_formats import event_types
from tscc_stream.edges.people import ChangedError, Said
from tscc_stream.package import Label

MOST_CHANNELS = 12
"""Channels of a cluster that are named, those with most members."""
_COLOURS = frozenset("0123456789abcdefABCDEF")
_A_DAY = "private, max-age=86400"


def routes(console: Console) -> list[BaseRoute]:
    """Its addresses."""
    pages = ClusterPages(console)
    bokeh = str(resources.files("bokeh") / "server" / "static" / "js")
    return [
        Route("/clusters", pages.gallery),
        Route("/clusters/charts.json", pages.charts),
        Route("/clusters/wave/{seq:int}.svg", pages.wave),
        *FamilyPages(console, pages.detections).routes(),
        Route("/clusters/{cluster:int}", pages.cluster),
        Route("/clusters/{cluster:int}/charts.json", pages.charts_of_one),
        Route("/clusters/{cluster:int}/name", pages.name, methods=["POST"]),
        Mount("/bokeh", KeptFiles(directory=bokeh)),
    ]


class KeptFiles(StaticFiles):
    """Files of a wheel, a megabyte and more: a browser may keep them for a day."""

    def file_response(self, *args: Any, **keys: Any) -> Response:  # noqa: ANN401  # as its parent takes them
        response = super().file_response(*args, **keys)
        response.headers["Cache-Control"] = _A_DAY
        return response


class ClusterPages:
    """Handlers; all but `name` run in threads."""

    def __init__(self, console: Console) -> None:
        self._console, self._site = console, console.site
        self.detections = Detections()

    def _look(self, request: Request) -> View:
        return look(self._site, self.detections, period_of(request.query_params))

    def gallery(self, request: Request) -> Response:
        try:
            view = self._look(request)
        except NotThereError as error:
            return self._console.page(request, "clusters_nothing", page="clusters", why=str(error))
        cards = [self._card(view, cluster) for cluster in view.clusters]
        cards.sort(key=lambda card: -card["count"])
        return self._console.page(request, "clusters", cards=cards, **self._common(view))

    def cluster(self, request: Request) -> Response:
        view, cluster = self._look(request), request.path_params["cluster"]
        if cluster not in view.clusters:
            last = len(view.clusters) - 1
            raise HTTPException(404, f"There is no cluster {cluster}: this model has those from 0 to {last}.")
        with self._site.people() as people:
            history = [_told(view, said) for said in names.history(people, view.package.sha256, cluster)]
        members = view.members(cluster)
        return self._console.page(
            request,
            "cluster",
            page="clusters",
            card=self._card(view, cluster),
            borders=[_shown(view, one) for one in border(members, view.names, self._site.config.novelty.alpha)],
            channels=[{"name": n, "count": c, "share": c / members.size} for n, c in view.channels(members)],
            most_channels=MOST_CHANNELS,
            event_types=event_types(),
            history=history,
            seen=history[0]["number"] if history else 0,
            same=names.told_same_name(view.package, cluster, view.names[cluster]),
            from_package=view.package.labels.get(cluster),
            **self._common(view),
        )

    def _common(self, view: View) -> dict[str, Any]:
        span = view.span
        return {
            "periods": list(PERIODS),
            "period": view.period,
            "total": int(view.rows.size),
            "unknown": int(view.unknown.size),
            "unknown_share": view.share(view.unknown.size),
            "others": view.others,
            "complete": view.complete,
            "span": None if span is None else [view.when(ns) for ns in span],
            "model": {"name": view.package.spec.name, "version": view.package.spec.version, "sha": view.package.sha256},
            "band": view.package.spec.band_hz,
        }

    def _card(self, view: View, cluster: int) -> dict[str, Any]:
        members, label = view.members(cluster), view.label(cluster)
        return {
            "id": cluster,
            "label": label,
            "dash": " ".join(map(str, DASHES[cluster % len(DASHES)])),
            "named": view.package.label_of(cluster) is not None,
            "count": int(members.size),
            "share": view.share(members.size),
            "precision": view.precision(members),
            "typical": [_shown(view, one) for one in typical(members)],
            "amplitude": counts(float(np.nanmedian(members["amplitude"]))) if members.size else "",
            "membership": float(np.median(members["membership"])) if members.size else float("nan"),
            "channels": view.channels(members)[:3],
        }

    def wave(self, request: Request) -> Response:
        """A detection's window before normalisation, its first channel."""
        package = self._site.package()
        colour = request.query_params.get("colour", "8d99ae")
        if len(colour) != 6 or not _COLOURS.issuperset(colour):
            return PlainTextResponse("colour: expected six hexadecimal digits\n", 400)
        with self._site.journal() as journal:
            window = band_passed_at(journal, request.path_params["seq"], package)
        if window is None:
            return PlainTextResponse("the journal does not hold this window any more\n", 404)
        drawn = picture(window[:, 0], package.spec.onset_sample / package.spec.samples, f"#{colour}")
        return Response(drawn, media_type="image/svg+xml", headers={"Cache-Control": _A_DAY})

    def charts(self, request: Request) -> Response:
        """Of all clusters together."""
        view = self._look(request)
        return JSONResponse(self._charts(view, list(view.clusters), spread=False))

    def charts_of_one(self, request: Request) -> Response:
        view, cluster = self._look(request), request.path_params["cluster"]
        wanted = [cluster] if cluster in view.clusters else []
        return JSONResponse(self._charts(view, wanted, spread=True))

    def _charts(self, view: View, clusters: list[int], *, spread: bool) -> dict[str, Any]:
        curves = [(cluster, view.names[cluster], view.colour(cluster)) for cluster in clusters]
        spectra = [(curve, self._spectrum(view, view.members(curve[0]))) for curve in curves]
        zone = self._site.zone
        rates = [(curve, per_hour_of_day(view.members(curve[0]), view.rows, zone)) for curve in curves]
        there = [(curve, one) for curve, one in spectra if one is not None]
        return {
            "spectrum": spectrum_chart("spectrum", there, spread=spread),
            "hours": hours_chart("hours", rates, self._site.config.time_zone),
            "windows": sum(one.windows for _, one in there),
        }

    def _spectrum(self, view: View, members: Rows) -> Spectrum | None:
        spec = view.package.spec
        with self._site.journal() as journal:
            kept = [band_passed_at(journal, int(seq), view.package) for seq in members["seq"][-MOST_WINDOWS:]]
        windows = [window[:, 0] for window in kept if window is not None]
        return mean_spectrum(np.array(windows), spec.sample_rate_hz, spec.band_hz)

    async def name(self, request: Request) -> Response:
        """Give a cluster of the live model a name; the daemon takes it over by itself."""
        try:
            label, seen = _label(json.loads(await request.body()))
        except RecursionError:
            return JSONResponse({"error": "expected an object; this is nested too deep"}, 400)
        except (ValueError, TypeError) as error:
            return JSONResponse({"error": str(error)}, 400)
        return await run_in_threadpool(self._give, request.path_params["cluster"], label, seen, who(request.scope))

    def _give(self, cluster: int, label: Label, seen: int | None, user: str) -> Response:
        package = self._site.package()
        if not 0 <= cluster < package.spec.clusters:
            return JSONResponse({"error": f"cluster {cluster}: expected 0 to {package.spec.clusters - 1}"}, 404)
        if label.event_type not in event_types():
            return JSONResponse({"error": f"event type {label.event_type!r:.60}: expected one of QuakeML's"}, 400)
        with self._site.people() as people:
            try:
                number = names.give(people, package.sha256, cluster, label, user, time.time_ns(), seen)
            except ChangedError as error:
                return JSONResponse({"error": _told_change(self._site, error)}, 409)
            finally:
                self._site.look_again()
        same = names.told_same_name(package, cluster, label.name)
        return JSONResponse(
            {"cluster": cluster, "name": label.name, "sha256": package.sha256, "seen": number, "same": same}
        )


def _told_change(site: Site, error: ChangedError) -> str:
    if error.said is None:
        return "this cluster's name changed since the page was shown; look and name again"
    called = str(error.said.document.get("name"))
    return f"{error.said.who} named it {called!r} at {site.local(error.said.at_ns):%H:%M}; look and name again"


def _label(document: object) -> tuple[Label, int | None]:
    """The label, and the number of the last name that the page showed. Raises ValueError."""
    seen = document.pop("seen", None) if isinstance(document, dict) else None
    if seen is not None and (not isinstance(seen, int) or not 0 <= seen < 2**63):
        raise ValueError("seen: expected the number of the last name that was shown, 0 for none")
    return names.label_of(document), seen


def _shown(view: View, one: Shown) -> dict[str, Any]:
    """A member for a template."""
    row = one.row
    return {
        "uid": row["uid"].decode(),
        "seq": int(row["seq"]),
        "why": one.why,
        "channel": view.channel(int(row["sid"])),
        "when": view.when(int(row["onset_ns"])),
        "amplitude": counts(float(row["amplitude"])),
    }


def counts(amplitude: float) -> str:
    """To three digits, with its unit: 1,740 counts; empty where it is not known."""
    if not np.isfinite(amplitude):
        return ""
    digits = max(0, 2 - int(np.floor(np.log10(abs(amplitude))))) if amplitude else 0
    rounded = float(f"{amplitude:.3g}")
    return f"{rounded:,.{digits}f} counts"


def _told(view: View, said: Said) -> dict[str, Any]:
    return {"number": said.number, "who": said.who, "when": view.when(said.at_ns), "label": said.document}
