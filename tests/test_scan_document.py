"""The examples of docs/archives.md run as they stand, those for pandas and DuckDB where these are installed."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from made_scan import configured, scan
from made_site import make_archive

TEXT = (Path(__file__).parent.parent / "docs/archives.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
LIBRARY = re.compile(r"import (\w+)")


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("read")
    scan([make_archive(folder / "archive")], folder / "scanned", configured(folder))
    return folder


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: LIBRARY.search(block).group(1))
def test_examples(
    block: str, scanned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    library = re.findall(LIBRARY, block)[0]
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    monkeypatch.chdir(scanned)
    exec(compile(block, "docs/archives.md", "exec"), {})  # noqa: S102  # our own document
    assert capsys.readouterr().out.strip() not in ("", "0")


def test_every_column_is_described() -> None:
    from tscc_stream.scan.rows import DETECTIONS, NETWORK_EVENTS  # noqa: PLC0415  # pyarrow takes its time

    assert [name for name in {*DETECTIONS.names, *NETWORK_EVENTS.names} if f"`{name}`" not in TEXT] == []
