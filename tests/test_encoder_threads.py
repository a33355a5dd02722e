"""A batch in several threads: pieces in order, errors told, a thread that gets no core waited for by nobody."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from in_time import PATIENCE_S

from tscc_stream import package
from tscc_stream.edges import encoder_threads
from tscc_stream.edges.encoder_threads import EncoderThreads, choose, counts_to_try, piece_size
from tscc_stream.edges.torchscript import PIECE, TorchScriptEncoder
from tscc_stream.learn.time_major import CHUNK

DEMO = Path(__file__).parents[1] / "models" / "demo"


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("pieces", [0, 1, 2, 40])
def test_results_come_in_the_order_of_the_pieces(count: int, pieces: int) -> None:
    threads = EncoderThreads(count)
    assert threads.each(lambda piece: -piece, range(pieces)) == [-piece for piece in range(pieces)]


def test_the_first_error_is_raised_and_the_threads_live_on() -> None:
    threads = EncoderThreads(3)

    def work(piece: int) -> int:
        if piece == 4:
            raise ValueError("piece 4")
        return piece

    with pytest.raises(ValueError, match="piece 4"):
        threads.each(work, range(9))
    assert threads.each(work, range(4)) == [0, 1, 2, 3]


def test_the_pieces_are_shared() -> None:
    """Two pieces that each wait for the other's beginning need two threads."""
    both = threading.Barrier(2, timeout=PATIENCE_S)
    assert len(EncoderThreads(2).each(lambda _: both.wait(), range(2))) == 2


def test_a_thread_that_gets_no_core_is_not_waited_for() -> None:
    threads, held, go_on = EncoderThreads(2), threading.Barrier(3, timeout=PATIENCE_S), threading.Event()

    def hold(_: int) -> bool:
        held.wait()
        return go_on.wait(PATIENCE_S)

    another = threading.Thread(target=lambda: threads.each(hold, range(2)))
    another.start()
    held.wait()  # the helper and the other caller are both at work, and stay so
    assert threads.each(lambda piece: piece + 1, range(5)) == [1, 2, 3, 4, 5]
    go_on.set()
    another.join(PATIENCE_S)
    assert not another.is_alive()


def _helpers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("encoder ")]


def test_threads_end_with_their_object() -> None:
    gc.collect()
    before = _helpers()
    threads = EncoderThreads(4)
    started = [thread for thread in _helpers() if thread not in before]
    assert len(started) == 3
    assert all(thread.daemon for thread in started)
    del threads
    for thread in started:
        thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in started)


@given(batch=st.integers(1, 600), threads=st.integers(1, 64))
def test_pieces_are_for_all_threads_and_for_a_cache(batch: int, threads: int) -> None:
    size = piece_size(batch, threads, PIECE)
    assert 1 <= size <= batch
    if threads == 1:
        assert size == batch
    else:
        assert size <= PIECE
        assert size == 1 or -(-batch // size) >= threads


def test_a_piece_is_what_the_compiled_encoder_takes_at_a_time() -> None:
    assert PIECE == CHUNK


@pytest.mark.parametrize(
    ("cores", "counts"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 4]), (12, [1, 2, 4, 8, 12])]
)
def test_numbers_of_threads_that_are_tried(cores: int, counts: list[int]) -> None:
    assert counts_to_try(cores) == counts


class _Trial:
    """A clock that each trial moves on."""

    def __init__(self, seconds_of: Callable[[int, int], float]) -> None:
        self.now, self.calls, self._seconds_of = 0.0, 0, seconds_of

    def __call__(self, count: int) -> None:
        self.calls += 1
        self.now += self._seconds_of(count, self.calls)

    def clock(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({1: 10e-3, 2: 5.5e-3}, 2),
        ({1: 10e-3, 2: 8e-3}, 1),  # faster, but not clearly
        ({1: 10e-3, 2: 400e-3}, 1),  # a busy core
        ({1: 16e-3, 2: 8e-3, 4: 5e-3, 8: 4.9e-3}, 4),
        ({1: 16e-3, 2: 15e-3, 4: 1e-3}, 1),  # no step is skipped: what two do not gain, four do not gain for long
    ],
)
def test_more_threads_are_taken_only_where_clearly_faster(seconds: dict[int, float], chosen: int) -> None:
    trial = _Trial(lambda count, _: seconds[count])
    assert choose(trial, list(seconds), trial.clock)[0] == chosen


def test_one_slow_or_lucky_trial_decides_nothing() -> None:
    lucky = _Trial(lambda count, call: 1e-3 if (count, call) == (2, 2) else 10e-3)
    assert choose(lucky, [1, 2], lucky.clock)[0] == 1
    slow = _Trial(lambda count, call: 90e-3 if call == 4 else 10e-3 / count)
    assert choose(slow, [1, 2], slow.clock)[0] == 2


def test_the_choice_ends_in_time_however_slow_the_model() -> None:
    trial = _Trial(lambda *_: 0.4)
    chosen, seconds = choose(trial, [1, 2, 4, 8], trial.clock)
    assert trial.calls == 2
    assert (chosen, sorted(seconds)) == (1, [1, 2])
    assert encoder_threads.TRIAL_SECONDS <= 0.5


def test_an_encoder_gives_the_same_in_any_number_of_threads() -> None:
    loaded = package.load(DEMO)
    x = np.random.default_rng(0).standard_normal((23, 500, 1)).astype(np.float32)
    one, three = (TorchScriptEncoder(loaded, "cpu", count) for count in (1, 3))
    expected, got = one.encode(x), three.encode(x)
    assert (one.threads, three.threads, torch.get_num_threads()) == (1, 3, 1)
    assert np.abs(got.membership - expected.membership).max() < 1e-5
    assert np.array_equal(got.cluster, expected.cluster)


def test_an_encoder_says_how_many_threads_it_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "tscc_stream.edges.torchscript.choose", lambda trial, counts: (trial(counts[-1]), (2, {1: 0.01, 2: 0.005}))[1]
    )
    monkeypatch.setattr("tscc_stream.edges.torchscript.counts_to_try", lambda _: [1, 2])
    encoder = TorchScriptEncoder(package.load(DEMO), "cpu", "auto")
    assert encoder.threads == 2
    assert encoder.told == ["inference.threads auto: 2 (16 windows with 1: 10 ms, 2: 5 ms)"]
