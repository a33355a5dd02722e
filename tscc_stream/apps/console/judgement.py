"""Whether all is well: one word for each part of the system, why, and what to do. Pure.

Words: OK; LOOK (somebody should look, nothing is lost yet); BAD (data or messages are lost, or late); UNKNOWN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tscc_stream.drift import ALARM

Word = Literal["OK", "LOOK", "BAD", "UNKNOWN"]
_WORSE: tuple[Word, ...] = ("OK", "UNKNOWN", "LOOK", "BAD")
CLOCK_AHEAD_SECONDS = 2.0
"""Data of the future beyond this: a clock is wrong, here or at the recorder."""
DISK_LOOK, DISK_BAD = 0.10, 0.02
"""Share of the disk that is free."""
QUEUE_LOOK = 0.75
"""Share of a queue."""
QUEUES = {"front": 64, "back": 256}
"""What they hold: reads of a server, and lists of windows."""


@dataclass(frozen=True, slots=True)
class Part:
    """what: what was found; do: what to do about it, empty where nothing is to be done."""

    name: str
    word: Word
    what: str
    do: str = ""


def worst(parts: list[Part]) -> Word:
    """The worst word of all."""
    return max((part.word for part in parts), key=_WORSE.index, default="UNKNOWN")


def daemon(health: Mapping[str, Any] | None, away: str, since: str, secret: str, stopped: bool) -> Part:
    """since: the last sign of it, in words. stopped: the last that it said was that it stops."""
    if secret:
        return Part("daemon", "UNKNOWN", "it answers, but not to the console", secret)
    if health is None:
        how = "it was told to stop" if stopped else "it did not say that it stops: it was killed, or it failed"
        do = (
            "systemctl start tscc-stream"
            if stopped
            else "systemctl status tscc-stream; journalctl -u tscc-stream -n 50"
        )
        return Part("daemon", "BAD", f"it does not run since {since}; {how}. The console asked: {away}", do)
    state = str(health.get("state"))
    if state == "stalled":
        threads = ", ".join(health.get("stalled", ()))
        return Part(
            "daemon",
            "BAD",
            f"stuck: {threads}",
            "systemd starts it again after a minute; see journalctl -u tscc-stream",
        )
    if state in ("starting", "stopping"):
        return Part("daemon", "LOOK", f"it is {state}", "wait a minute")
    return Part("daemon", "OK", f"all {len(health.get('threads', ()))} threads turn")


def links(health: Mapping[str, Any] | None) -> list[Part]:
    """One for each server."""
    if health is None:
        return [Part("links", "UNKNOWN", "only the running daemon knows")]
    found = []
    for server, link in health.get("servers", {}).items():
        name, data = f"link {server}", health.get("data", {}).get(server, {})
        age = data.get("age_s")
        if link != "connected":
            found.append(
                Part(name, "BAD", "not connected", "is the server on, and reachable? ping it; tscc-stream doctor")
            )
        elif data.get("state") == "SILENT":
            do = "the server answers but sends nothing: look at the recorders behind it"
            found.append(Part(name, "BAD", f"connected, but silent for {_span(age)}", do))
        elif data.get("state") == "OLD":
            what = f"connected, but its data are older than what was already seen, for {_span(age)}"
            do = "nothing new is detected: was the server started again, or put back? does it replay a recording?"
            found.append(Part(name, "BAD", what, do))
        elif data.get("state") == "LATE":
            found.append(
                Part(name, "LOOK", f"connected, the last data {_span(age)} old", "wait; it may be a slow link")
            )
        else:
            found.append(Part(name, "OK", "connected" + (f", data {_span(age)} ago" if age is not None else "")))
    return found or [Part("links", "UNKNOWN", "no server yet")]


def channels(health: Mapping[str, Any] | None, quarantined: float, words: Mapping[str, int] | None = None) -> Part:
    """All of them together. words: how many have each word in the table of sensors."""
    if health is None:
        return Part("channels", "UNKNOWN", "only the running daemon knows")
    count, silent = int(health.get("channels", 0)), int(health.get("silent_channels", 0))
    left_out, old = 0 if math.isnan(quarantined) else int(quarantined), int(health.get("old_channels", 0))
    if not count:
        return Part(
            "channels",
            "LOOK",
            "none has sent yet",
            "do the stream patterns in the configuration fit? tscc-stream doctor",
        )
    if silent or left_out or old:
        found = [f"{silent} of {count} silent"] if silent else []
        found += [f"{old} of {count} send data older than what was already seen"] if old else []
        found += [f"{left_out} left out because they break again and again"] if left_out else []
        what = ", ".join(found)
        return Part(
            "channels", "BAD" if 2 * (silent + old) >= count else "LOOK", what, "see Sensors below, and the Live page"
        )
    unwell = {word: number for word, number in (words or {}).items() if word != "OK"}
    if unwell:
        named = ", ".join(f"{number} {word}" for word, number in unwell.items())
        what = f"all {count} send, but {sum(unwell.values())} not OK: {named}"
        return Part("channels", "LOOK", what, "see Sensors below: the words are explained there")
    return Part("channels", "OK", f"all {count} send")


def journal(failing: str, unreadable: str, size: str) -> Part:
    """failing: why the daemon cannot write; unreadable: why the console cannot read."""
    if failing:
        do = "nothing is lost yet, and nothing goes out: free space on the disk, or mend its permissions"
        return Part("journal", "BAD", f"it cannot be written: {failing}", do)
    if unreadable:
        return Part("journal", "BAD", unreadable, "tscc-stream journal check --state-dir … says whether it is whole")
    return Part("journal", "OK", size)


def bus(refused: str, turned_s: float | None) -> Part:
    """refused: why the console's own subscriber was; turned_s: how long ago the bus thread turned."""
    if refused:
        return Part("bus", "BAD", refused, "the console sees no messages; others may")
    if turned_s is None:
        return Part("bus", "UNKNOWN", "only the running daemon knows")
    return Part("bus", "OK", "messages go out, and this console receives them")


def model(told: str, running: str, drift: float) -> Part:
    """running: sha256 that the daemon says; told: that of the model which should run."""
    if not running:
        return Part("model", "UNKNOWN", "only the running daemon knows")
    if told and told != running:
        do = "systemctl reload tscc-stream takes it over"
        return Part("model", "LOOK", f"{running[:12]} runs, {told[:12]} is chosen", do)
    if drift > ALARM:
        do = "look at the unknown windows (Clusters), then train again; see Drift below"
        return Part(
            "model",
            "LOOK",
            f"windows are no longer like those it was made with: drift {drift:.2f} of at most {ALARM}",
            do,
        )
    return Part("model", "OK", "no drift known yet" if math.isnan(drift) else f"drift {drift:.2f} of at most {ALARM}")


def queues(depth: Mapping[str, float], spilled: float, waiting_share: float) -> Part:
    """waiting_share: of the last minute in which nothing was read for want of room."""
    if not depth:
        return Part("queues", "UNKNOWN", "only the running daemon knows")
    full = [stage for stage, most in QUEUES.items() if depth.get(stage, 0.0) >= QUEUE_LOOK * most]
    if full or waiting_share > 0.05:
        what = f"{', '.join(full) or 'reading'}: more comes in than is done"
        return Part(
            "queues", "LOOK", what, "a burst passes by itself; if it stays, see Stages below and docs/performance.md"
        )
    if spilled > 0:
        return Part(
            "queues",
            "LOOK",
            f"{spilled:.0f} windows wait in the journal to be classified",
            "they are, once nothing else waits",
        )
    return Part("queues", "OK", "nothing waits")


def disk(free: int, total: int) -> Part:
    """Bytes of the disk that holds the state."""
    share = free / total if total else 0.0
    what = f"{bytes_text(free)} free ({100 * share:.0f} %)"
    if share < DISK_BAD:
        return Part("disk", "BAD", what, "free space now: the journal will not be writable soon")
    if share < DISK_LOOK:
        return Part("disk", "LOOK", what, "free space, or lower retention.days or retention.max_gib")
    return Part("disk", "OK", what)


def clock(ahead_s: float | None, kept: bool | None) -> Part:
    """ahead_s: how far the newest data are in the future, NaN or below 0: not. kept: the kernel's own word on whether
    somebody keeps the clock right; None where it does not say.
    """
    if ahead_s is not None and ahead_s > CLOCK_AHEAD_SECONDS:
        do = "one of the two clocks is wrong: compare both with a watch (timedatectl; the recorder's page)"
        return Part("clock", "BAD", f"data come from {_span(ahead_s)} in the future", do)
    if kept is False:
        return Part(
            "clock",
            "LOOK",
            "nobody keeps this machine's clock right",
            "let chrony or systemd-timesyncd do so: timedatectl",
        )
    return Part("clock", "OK", "kept right" if kept else "no data from the future")


def bytes_text(count: float) -> str:
    """1.2 GiB, or 3 MiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "an unknown time"
    if seconds < 90:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"
