"""Which server is tried next, from what happened to those before."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from tscc_stream.seedlink.server_choice import ServerChoice


def tried(choice: ServerChoice, attempts: int) -> str:
    """The servers of so many attempts in vain, with a space where there is a wait before the next one."""
    order = ""
    for _ in range(attempts):
        order += choice.server
        order += "" if choice.failed() else " "
    return order


def test_each_twice_then_round_and_round() -> None:
    assert tried(ServerChoice(["A", "B", "C"]), 12) == "A AB BC C ABC ABC "


def test_one_server_is_tried_for_ever() -> None:
    assert tried(ServerChoice(["A"]), 4) == "A A A A "
    assert not ServerChoice(["A"]).leave()


def test_data_make_it_start_anew() -> None:
    choice = ServerChoice(["A", "B"])
    tried(choice, 9)
    choice.worked()
    assert tried(choice, 4) == "B BA A "


def test_one_failure_between_data_is_none() -> None:
    choice = ServerChoice(["A", "B"])
    for _ in range(5):
        assert not choice.failed()
        choice.worked()
    assert choice.server == "A"


def test_a_silent_server_is_left_at_once() -> None:
    choice = ServerChoice(["A", "B"])
    assert choice.leave()
    assert choice.server == "B"
    assert not choice.leave()  # all have had their turn
    assert choice.server == "A"


@given(st.integers(1, 5), st.lists(st.sampled_from(["failed", "leave", "worked"]), max_size=40))
def test_every_server_that_is_back_is_found_within_one_round(count: int, happened: list[str]) -> None:
    servers = [str(number) for number in range(count)]
    choice = ServerChoice(servers)
    acts: dict[str, Callable[[], object]] = {
        "failed": choice.failed, "leave": choice.leave, "worked": choice.worked
    }  # fmt: skip
    for what in happened:
        acts[what]()
    seen = set()
    for _ in range(2 * count):
        seen.add(choice.server)
        choice.failed()
    assert seen == set(servers)
