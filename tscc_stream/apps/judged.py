"""Precision per cluster by what people said, of the detections that a journal still holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tscc_stream.apps.words import Words, cluster_of
from tscc_stream.config import Config
from tscc_stream.edges.sqlite import JournalReader
from tscc_stream.stages.journal import JournalError
from tscc_stream.verdicts import Precision, precision

Cluster = tuple[str, str]
"""SHA-256 of the model, and what its cluster is called now; `unknown` for what it knew not."""
FILE = "journal.sqlite"


def of_site(config: Config, base: Path) -> tuple[dict[Cluster, Precision], int]:
    """By model and cluster, the most judged first; and how many verdicts are on what is there no more.

    Verdicts on detections alone count: one on a network event says nothing of a single window's cluster.
    base: the folder of the configuration. Raises JournalError, PeopleError.
    """
    path = Path(config.state_dir) / FILE
    if not path.is_file():
        raise JournalError(f"journal {path}: no such file; the daemon makes it when it first starts")
    words, reader = Words(config, base), JournalReader(path)
    try:
        return _of(words, reader)
    finally:
        reader.close()


def _of(words: Words, reader: JournalReader) -> tuple[dict[Cluster, Precision], int]:
    judged: list[tuple[Cluster, bool]] = []
    gone = 0
    for uid, verdict in words.verdicts.items():
        found = reader.last_word(uid)
        if found is None:
            gone += 1
        elif found.message.kind == "detection":
            body = json.loads(found.message.body)
            judged.append((_cluster(words, body), verdict.agrees))
    by_cluster = precision(judged)
    return dict(sorted(by_cluster.items(), key=lambda item: -item[1].judged)), gone


def _cluster(words: Words, body: dict[str, Any]) -> Cluster:
    sha256 = body["data"]["model"]["sha256"]
    return sha256, words.of_cluster(sha256, cluster_of(body), body["data"]["cluster"]["name"]).name
