"""Every command that the documents show is carried out, as a reader would type it, and ends well.

Each document in a network namespace of its own, in which the ports that it names are free: that needs root.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from in_time import PATIENCE_S
from made_bridge import NO_NATS, PROGRAM
from run_documented import SITE, is_command, steps_of

from tscc_stream import config
from tscc_stream.cli import GROUPS

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WITH_COMMANDS = [path for path in DOCUMENTS if any(map(is_command, steps_of(path.read_text(encoding="utf-8"))))]
ALONE = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a process that has loaded the program, which takes longer than most of its commands."""
    path = tmp_path_factory.mktemp("loaded") / "socket"
    told = [sys.executable, "-P", ROOT / "tests/forked_shell.py", path]
    paths = [str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]  # an empty one would be this folder
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with subprocess.Popen(told, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield path
        process.terminate()


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
@pytest.mark.parametrize("document", WITH_COMMANDS, ids=lambda path: path.stem)
def test_every_command_works(document: Path, loaded: Path, tmp_path: Path) -> None:
    if document.stem == "bridge" and PROGRAM is None:
        pytest.skip(NO_NATS)
    folder = tmp_path / "site"
    told = [*ALONE, sys.executable, ROOT / "tests/run_documented.py", document, folder, loaded]
    done = subprocess.run(told, capture_output=True, text=True, timeout=5 * PATIENCE_S, check=False)
    came = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one for one in came if one["status"] != 0] == []
    assert done.returncode == 0, done.stderr[-2000:]
    shown = [step for step in steps_of(document.read_text(encoding="utf-8")) if is_command(step)]
    assert [one["command"] for one in came][-len(shown) :] == shown
    if document.stem == "tutorial":
        assert "REHEARSAL" in (folder / "alerts.txt").read_text()
        assert "<h2>Clusters</h2>" in (folder / "shift.html").read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_commands_and_files_that_are_mentioned_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    known = {name for names in GROUPS.values() for name in names}
    assert set(re.findall(r"`tscc-stream ([a-z-]+)", text)) - known == set()
    links = [link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_the_prepared_site_is_one() -> None:
    assert config.parse(SITE).alerts.rules
