"""What an operator must know before anything else, as sentences: pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tscc_stream.apps.console.daemon_watch import Said
from tscc_stream.apps.console.wall_reader import Link
from tscc_stream.source_id import name_of

_NAMED = 5


def sentences(said: Said, links: Iterable[Link], quarantined: Mapping[str, str], journal: str) -> list[str]:
    """The worst first. journal: why it cannot be read; empty where it can."""
    found = _of_daemon(said)
    found += [
        f"The console does not get waveforms from {link.server}: {link.text}"
        for link in links
        if link.connected is False
    ]
    if journal:
        found.append(f"Detections cannot be read: {journal}")
    if said.quarantined:
        found.append(_of_quarantine(said.quarantined, quarantined))
    return found


def _of_daemon(said: Said) -> list[str]:
    if not said.health:
        why = "the console reads waveforms itself, they go on"
        return [f"The daemon does not answer ({said.reason}): no new detections; {why}"]
    found = []
    state, reason = said.health.get("state"), said.health.get("reason")
    if state == "journal":
        found.append(f"The journal cannot be written, nothing goes out: {reason}")
    elif state == "stalled":
        found.append(f"The daemon is stuck: {', '.join(said.health.get('stalled', ()))}")
    elif state in ("starting", "stopping"):
        found.append(f"The daemon is {state}")
    for server, word in said.health.get("servers", {}).items():
        data = said.health.get("data", {}).get(server, {})
        if word != "connected":
            found.append(f"The daemon is not connected to {server}: no detections from its channels")
        elif data.get("state") == "SILENT":
            age_s = data.get("age_s")
            lasting = "and has sent nothing yet" if age_s is None else f"and sends nothing, for {age_s:.0f} s"
            found.append(f"{server} is connected {lasting}")
        elif data.get("state") == "OLD":
            found.append(
                f"{server} has only data older than what was already seen, for {data.get('age_s', 0):.0f} s: "
                "nothing new is detected. Was it started again, or put back?"
            )
    return found


def _of_quarantine(count: int, reasons: Mapping[str, str]) -> str:
    named = [f"{name_of(sid)} ({reason})" for sid, reason in list(reasons.items())[:_NAMED]]
    what = "1 channel is" if count == 1 else f"{count} channels are"
    return f"{what} left out until well again" + (f": {', '.join(named)}" if named else "")
