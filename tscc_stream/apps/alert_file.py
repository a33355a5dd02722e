"""How the alert process comes to its journal: the file, a new one for a damaged one, or memory for want of either."""

from __future__ import annotations

import time
from pathlib import Path

from tscc_stream.edges.alert_journal import FILE, AlertJournal
from tscc_stream.edges.alert_journal_file import AlertJournalError, AlertJournalHeldError

IN_MEMORY = "what is told is kept in memory only, and forgotten when this process ends"


def told_of_damage(damage: str) -> tuple[str, str]:
    """Title and sentence for people: a new journal of alerts is begun."""
    return (
        f"{FILE} was damaged, and a new one is begun; events before now are not told again",
        f"{FILE} was damaged ({damage}). A new one is begun: events before now are not told again, and deliveries "
        "that waited, repetitions and running cool-downs are forgotten; look at what happened before by hand",
    )


def journal_of(path: Path) -> tuple[AlertJournal, list[tuple[str, str]]]:
    """The journal of alerts, in memory where its file cannot be had: people are alerted all the same.

    Second: what is missing, each a title and a sentence. Raises AlertJournalHeldError where another process has it.
    """
    now_ns = time.time_ns()
    try:
        journal, damage = AlertJournal.of_the_process(path, now_ns)
        return journal, [told_of_damage(damage)] if damage else []
    except AlertJournalHeldError:
        raise
    except AlertJournalError as error:
        journal, unread = AlertJournal.in_memory(path, now_ns)
        forgotten = (
            f" What it held cannot be read either ({unread}): it is as if nothing had been told before."
            if unread
            else ""
        )
        sentence = (
            f"{error}. Alerts go out, but {IN_MEMORY}: whatever is told until the file can be written, which is tried "
            f"every minute, may then come twice, and what waits may not come at all.{forgotten}"
        )
        return journal, [(f"{FILE} cannot be written: alerts go out, but {IN_MEMORY}", sentence)]
