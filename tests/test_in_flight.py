"""Who is told from whom: a window that takes the process with it, and one that was there when somebody ended it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_time import PATIENCE_S

from tscc_stream import suspects
from tscc_stream.edges.in_flight import InFlight
from tscc_stream.suspects import after_death, condemned

PROGRAM = """
import os, sys
from pathlib import Path
from tscc_stream.edges.in_flight import InFlight
uids = sys.argv[2].split(",")
with InFlight(Path(sys.argv[1]), crashed=sys.argv[3] == "crashed").holding(uids):
    os.kill(os.getpid(), 9)
"""


def _killed(path: Path, uids: str, how: str = "killed") -> None:
    """A process that dies with these windows in flight. how: how the one before it did."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(path), uids, how], check=False, timeout=PATIENCE_S)
    assert done.returncode == -signal.SIGKILL


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "in-flight"


def test_what_was_in_flight_at_a_kill_is_a_suspect_until_it_comes_through(path: Path) -> None:
    _killed(path, "a,b,c")
    here = InFlight(path)
    assert here.suspects == {"a": 0, "b": 0, "c": 0}
    with here.holding(["b"]):
        pass
    with pytest.raises(RuntimeError), here.holding(["c"]):
        raise RuntimeError("it came back")
    here.end()
    again = InFlight(path)
    assert again.suspects == {"a": 0}
    again.forget("a")
    again.end()
    last = InFlight(path)
    assert last.suspects == {}
    last.end()


def test_a_suspect_that_is_alone_at_every_crash_is_condemned_at_the_third(path: Path) -> None:
    _killed(path, "a,b")
    _killed(path, "a", "crashed")
    _killed(path, "a", "crashed")
    here = InFlight(path, crashed=True)
    assert here.is_condemned("a")
    assert here.is_suspect("b")
    assert not here.is_condemned("b")
    here.end()


def test_a_start_that_dies_with_nothing_in_flight_counts_nothing(path: Path) -> None:
    _killed(path, "a")
    for _ in range(20):
        InFlight(path, crashed=True).end()
    here = InFlight(path)
    assert here.suspects == {"a": 0}
    here.end()


@pytest.mark.parametrize("torn", [b"", b"\1", b"\xff" * 200])
def test_a_torn_record_is_none(path: Path, torn: bytes) -> None:
    _killed(path, "a,b")
    whole = path.read_bytes()
    path.write_bytes(torn or whole[:-3])
    _holds_nothing(path)
    path.write_bytes(whole.replace(b"a", b"c"))
    _holds_nothing(path)


def _holds_nothing(path: Path) -> None:
    here = InFlight(path)
    assert here.suspects == {}
    here.end()


_deaths = st.lists(st.tuples(st.sets(st.sampled_from("abcdef")), st.booleans()), max_size=30)


@given(deaths=_deaths)
def test_nobody_is_condemned_but_alone_and_often(deaths: list[tuple[set[str], bool]]) -> None:
    points: dict[str, int] = {}
    alone: dict[str, list[bool]] = {}
    for in_flight, crashed in deaths:
        if len(in_flight) == 1 and in_flight <= points.keys():
            alone.setdefault(next(iter(in_flight)), []).append(crashed)
        points = after_death(points, sorted(in_flight), crashed)
    for uid, collected in points.items():
        crashes = sum(alone.get(uid, ()))
        kills = len(alone.get(uid, ())) - crashes
        assert condemned(collected) == (3 * crashes + kills >= 6)


def test_a_kill_from_outside_condemns_after_seven_deaths_not_before() -> None:
    points: dict[str, int] = {}
    for death in range(1, 8):
        points = after_death(points, ["a"], crashed=False)
        assert condemned(points["a"]) == (death == 7)


def test_suspects_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspects, "MOST_SUSPECTS", 3)
    assert after_death({"a": 1, "b": 2}, ["c", "d"], crashed=False) == {"b": 2, "c": 0, "d": 0}
