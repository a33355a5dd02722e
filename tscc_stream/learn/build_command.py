"""What `tscc-stream dataset build` does with recordings, as a function with plain arguments.

A file of its own, without what training loads: that takes longer than most data sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tscc_stream import progress
from tscc_stream.config import Config
from tscc_stream.learn import build as building
from tscc_stream.learn import dataset, stored
from tscc_stream.learn.dataset import DataSetError, WindowShape
from tscc_stream.sampling import time_ns_of


def build_dataset(
    paths: Sequence[Path],
    out: Path,
    config: Config,
    shape: WindowShape,
    *,
    random_windows: int = 0,
    from_time: str | None = None,
    to_time: str | None = None,
    seed: int = 0,
) -> int:
    """Cut windows out of recordings as the live path would, and write them to `out`: Parquet where that is a folder or
    a name in .parquet or without an ending, for which memory need not hold them all, else npz. Returns how many.

    shape: dataset.shape_of(package.load(...).spec) for windows of an existing model. from_time, to_time: ISO 8601,
    UTC unless they say otherwise. Raises DataSetError, WindowsError or ArchiveError.
    """
    span = _ns("from", from_time), _ns("to", to_time)
    wanted = building.Wanted(tuple(paths), config, shape, random_windows, *span, seed)
    with progress.bar("windows") as update:

        def tell(share: float) -> None:
            update(share, 1.0)

        if stored.writes_parquet(out):
            return building.build_parquet(wanted, out, tell)
        data = building.build(
            paths,
            config,
            shape,
            random_windows=random_windows,
            from_ns=span[0],
            to_ns=span[1],
            seed=seed,
            progress=tell,
        )
    dataset.save(data, out)
    return len(data)


def _ns(which: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return time_ns_of(text)
    except ValueError as error:
        raise DataSetError(f"--{which}-time {error}") from error
