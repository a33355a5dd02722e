"""Channels that break again and again: when they are left out, when they come back."""

from __future__ import annotations

import numpy as np
import pytest
from made_streams import SID, T0

from tscc_stream.config import QuarantineConfig
from tscc_stream.messages import Block, Gap, Quarantined, Released, read_only
from tscc_stream.quarantine import Quarantine

RATE = 100.0
CONFIG = QuarantineConfig()


def _block(samples: int, index: int = 5) -> Block:
    return Block(SID, index, T0, RATE, read_only(np.zeros(samples)))


def _gap(cause: str = "gap", to_ns: int | None = T0) -> Gap:
    return Gap(SID, T0, to_ns, cause)


def _verdicts(quarantine: Quarantine, every_seconds: float, gaps: int, cause: str = "gap") -> list[object]:
    parts = (_gap(cause), _block(round(every_seconds * RATE)))
    return [found for found in (quarantine.judge(SID, parts) for _ in range(gaps)) if found is not None]


@pytest.mark.parametrize(
    ("every_seconds", "cause"),
    [(60.0, "gap"), (4.0, "gap"), (1.0, "gap"), (10.0, "rate"), (3600.0, "clock"), (0.3, "flat")],
)
def test_a_healthy_channel_with_bad_days_is_not_quarantined(every_seconds: float, cause: str) -> None:
    """A radio link with a gap a minute, or one record in ten lost; a dead sensor."""
    quarantine = Quarantine(CONFIG)
    assert _verdicts(quarantine, every_seconds, 2000, cause) == []
    assert not quarantine.holds(SID)
    assert quarantine.judge(SID, [_block(6100)]) is None
    assert not quarantine._troubles


@pytest.mark.parametrize(
    ("every_seconds", "cause", "after"),
    [(0.01, "gap", 61), (0.1, "invalid", 67), (0.5, "gap", 120), (4.0, "rate", 10), (1.0, "clock", 7)],
)
def test_a_channel_that_breaks_all_the_time_is_quarantined(every_seconds: float, cause: str, after: int) -> None:
    quarantine = Quarantine(CONFIG)
    assert _verdicts(quarantine, every_seconds, after - 1, cause) == []
    (found,) = _verdicts(quarantine, every_seconds, 1, cause)
    assert isinstance(found, Quarantined)
    assert found.reason == "more than 60 breaks in 60 s; left out until 60 s of it came without a break"
    assert quarantine.holds(SID)
    assert quarantine.held == 1


def test_breaks_within_one_record_count_each_once() -> None:
    """A break is announced when it begins and again when it ends."""
    parts = [part for _ in range(60) for part in (_gap("invalid", None), _gap("invalid"), _block(1))]
    assert Quarantine(CONFIG).judge(SID, parts) is None
    assert isinstance(Quarantine(CONFIG).judge(SID, [*parts, _gap("invalid"), *parts[:6]]), Quarantined)


def test_it_comes_back_after_it_was_well_for_long_enough_without_a_break() -> None:
    quarantine = Quarantine(CONFIG)
    assert isinstance(quarantine.put(SID, "why", 0), Quarantined)
    assert quarantine.judge(SID, [_block(5900)]) is None
    assert quarantine.judge(SID, []) is None
    assert quarantine.judge(SID, [_block(9000, 0)]) is None  # what begins anew has not gone on yet
    assert quarantine.judge(SID, [_gap(), _block(5000)]) is None
    assert quarantine.judge(SID, [_block(5999)]) is None
    found = quarantine.judge(SID, [_block(1)])
    assert found == Released(SID, "60 s of it came without a break", 0)
    assert (quarantine.holds(SID), quarantine.held, quarantine._troubles) == (False, 0, {})


def test_who_is_put_twice_is_held_once() -> None:
    quarantine = Quarantine(CONFIG)
    quarantine.judge(SID, [_gap(), _gap()])
    for _ in range(2):
        quarantine.put(SID, "why", 0)
    assert quarantine.held == 1
    quarantine.forget(SID)
    quarantine.forget(SID)
    assert quarantine.held == 0
