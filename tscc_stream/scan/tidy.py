"""What a scan's folder holds and nobody needs any more."""

from __future__ import annotations

from collections.abc import Collection

from tscc_stream.scan.layout import Layout


def unfinished(layout: Layout) -> None:
    """What those left who were killed while they wrote. Nobody else may be at work there."""
    for path in layout.root.rglob(".*.[0-9]*"):
        if path.is_file():
            path.unlink()


def index(layout: Layout, wanted: Collection[str]) -> None:
    """Where records lay of batches that have changed since; wanted: digests of those there are."""
    for path in layout.index.iterdir():
        if path.name.partition(".")[0] not in wanted:
            path.unlink(missing_ok=True)
