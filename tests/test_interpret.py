"""Batches, assignments, conformal p-values and the vote of a network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_streams import SECOND, SID, T0, FakeEncoder, sid_of

from tscc_stream.messages import (
    Assignment,
    Detection,
    Float32Array,
    NetworkEvent,
    NetworkTrigger,
    Window,
    WindowDropped,
    WindowSpilled,
    read_only,
)
from tscc_stream.stages import interpret
from tscc_stream.stages.gather import Gather
from tscc_stream.stages.infer import Infer
from tscc_stream.stages.interpret import Interpret, NetworkVote


def _window(uid: str, normalised: Float32Array | None = None, sid: str = SID) -> Window:
    seen = read_only(np.zeros((4, 1), np.float32) if normalised is None else normalised)
    return Window(uid, sid, T0, T0, 50.0, 100.0, seen, seen, 1.0, 1.0, 1.0)


def _assignment(
    uid: str = "u", cluster: int = 0, membership: Sequence[float] = (0.6, 0.4), distance: Sequence[float] = (1.0, 2.0)
) -> Assignment:
    embedding = np.zeros(2, np.float32)
    return Assignment(
        _window(uid), embedding, np.array(membership, np.float32), cluster, np.array(distance, np.float32)
    )


def _name(cluster: int) -> str:
    return f"cluster {cluster}"


@given(windows=st.integers(0, 40), most=st.integers(1, 9), flushes=st.sets(st.integers(0, 39)))
def test_batches_hold_every_window_once_in_order_and_never_more_than_fit(
    windows: int, most: int, flushes: set[int]
) -> None:
    gather, encoder, batches = Gather(most), FakeEncoder(), []
    rng = np.random.default_rng(windows)
    fed = [_window(str(i), rng.normal(size=(6, 1)).astype(np.float32)) for i in range(windows)]
    for i, window in enumerate(fed):
        batches += gather.feed(window)
        batches += gather.flush() if i in flushes else []
    batches += gather.flush()
    assert gather.flush() == []
    assert [window.uid for batch in batches for window in batch.windows] == [window.uid for window in fed]
    assert all(0 < len(batch.windows) == len(batch.normalised) <= most for batch in batches)
    infer = Infer(encoder)
    for batch in batches:
        with pytest.raises(ValueError, match="read-only"):
            batch.normalised[0] = 0
        for i, assignment in enumerate(infer.feed(batch)):
            alone = FakeEncoder().encode(batch.windows[i].normalised[np.newaxis])
            assert assignment.window is batch.windows[i]
            assert assignment.cluster == int(alone.cluster[0])
            for got, expected in (
                (assignment.embedding, alone.embedding[0]),
                (assignment.membership, alone.membership[0]),
                (assignment.squared_distance, alone.squared_distance[0]),
            ):
                assert np.array_equal(got, expected)
                assert not got.flags.writeable
    assert encoder.sizes == [len(batch.windows) for batch in batches]


@given(
    scores=st.lists(st.integers(0, 12), min_size=20, max_size=60),
    score=st.integers(0, 13),
    alpha=st.sampled_from([0.5, 0.9]),
)
def test_p_values_equal_a_literal_count(scores: list[int], score: int, alpha: float) -> None:
    stage = Interpret(_name, np.sort(np.array(scores, np.float64)), alpha)
    (detection,) = stage.feed(_assignment(distance=(score, score + 1.0)))
    as_large = sum(other >= score for other in scores)
    assert detection.p_value == (1 + as_large) / (len(scores) + 1)
    assert detection.known == (detection.p_value > alpha)
    assert detection.name == ("cluster 0" if detection.known else "unknown")


@pytest.mark.parametrize(("as_large", "known"), [(18, False), (19, False), (20, True)])
def test_a_p_value_of_exactly_alpha_is_unknown(as_large: int, known: bool) -> None:
    scores = np.concatenate([np.zeros(1999 - as_large), np.full(as_large, 5.0)])
    (detection,) = Interpret(_name, scores, 0.01).feed(_assignment(distance=(5.0, 9.0)))
    assert (detection.p_value, detection.known) == ((1 + as_large) / 2000, known)


@pytest.mark.parametrize(("count", "calibrated"), [(0, False), (99, False), (100, True)])
def test_without_scores_enough_nothing_is_unknown(count: int, calibrated: bool) -> None:
    (detection,) = Interpret(_name, np.zeros(count), 0.1).feed(_assignment(distance=(1e9, 1e9)))
    assert (detection.p_value is not None) == calibrated
    assert detection.known is not calibrated
    assert Interpret(_name, None, 0.1).feed(_assignment())[0].p_value is None


def test_a_distance_that_is_no_number_is_unknown() -> None:
    (detection,) = Interpret(_name, np.zeros(100), 0.1).feed(_assignment(distance=(np.nan, np.nan)))
    assert not detection.known


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_of_ordinary_windows_at_most_the_share_alpha_is_unknown(alpha: float) -> None:
    rng = np.random.default_rng(7)
    unknown = 0
    for _ in range(300):  # a new calibration for each, since the promise is over both
        stage = Interpret(_name, np.sort(rng.chisquare(3, 200)), alpha)
        unknown += sum(not stage.feed(_assignment(distance=(d, 99.0)))[0].known for d in rng.chisquare(3, 20))
    share = unknown / 6000
    assert alpha * 0.7 < share <= alpha + 3 * (alpha / 6000) ** 0.5


def _trigger(uids: Sequence[str], final: bool = True, uid: str = "network-1") -> NetworkTrigger:
    members = tuple((sid_of(i), T0 + i, window) for i, window in enumerate(uids))
    return NetworkTrigger(uid, T0, T0 + 3 * SECOND // 2, members, final)


def _detection(uid: str, cluster: int | None, membership: float = 0.9) -> Detection:
    assignment = _assignment(uid, cluster or 0, [membership] * 3)
    return Detection(assignment, "unknown" if cluster is None else _name(cluster), cluster is not None, None)


def _vote(*messages: Detection | WindowDropped | NetworkTrigger) -> list[NetworkEvent]:
    vote = NetworkVote()
    return [event for message in messages for event in vote.feed(message)]


def _drop(uid: str) -> WindowDropped:
    return WindowDropped(uid, SID, T0, "gap")


def test_an_event_waits_for_every_window_it_names_and_then_says_all() -> None:
    vote = NetworkVote()
    assert vote.feed(_detection("a", 1)) == []
    assert vote.feed(_trigger("abc")) == []
    assert vote.oldest_waiting_ns() == T0
    assert vote.feed(_detection("b", 1)) == []
    (event,) = vote.feed(_detection("c", 0))
    assert vote.oldest_waiting_ns() == 1 << 62
    assert event == NetworkEvent(
        uid="network-1",
        onset_ns=T0,
        duration_s=1.5,
        channels=(sid_of(0), sid_of(1), sid_of(2)),
        detections=("a", "b", "c"),
        votes={"cluster 1": 2, "cluster 0": 1},
        cluster_id=1,
        cluster_name="cluster 1",
        final=True,
    )
    assert list(event.votes) == ["cluster 1", "cluster 0"]


@pytest.mark.parametrize(
    ("ballots", "winner"),
    [
        ([(0, 0.9), (1, 0.5), (1, 0.5)], 1),
        ([(0, 0.8), (1, 0.9)], 1),
        ([(1, 0.8), (0, 0.9)], 0),
        ([(1, 0.9), (0, 0.9)], 1),
        ([(None, 0.5), (None, 0.5), (1, 0.99)], None),
        ([(None, 0.5), (1, 0.6)], 1),
        ([(2, 0.4), (2, 0.4), (0, 0.99), (None, 0.1)], 2),
    ],
)
def test_the_most_votes_win_and_of_equal_votes_the_surest(
    ballots: list[tuple[int | None, float]], winner: int | None
) -> None:
    uids = [str(i) for i in range(len(ballots))]
    detections = [_detection(uid, *ballot) for uid, ballot in zip(uids, ballots, strict=True)]
    (event,) = _vote(*detections, _trigger(uids))
    assert (event.cluster_id, event.cluster_name) == (winner, "unknown" if winner is None else _name(winner))
    assert sum(event.votes.values()) == len(ballots)


def test_dropped_windows_cast_no_vote() -> None:
    (event,) = _vote(_detection("a", 1), _trigger("ab"), _drop("b"))
    assert (event.detections, event.votes, len(event.channels)) == (("a",), {"cluster 1": 1}, 2)
    (event,) = _vote(_drop("a"), _drop("b"), _trigger("ab"))
    assert (event.detections, event.votes, event.cluster_id, event.cluster_name) == ((), {}, None, "unknown")


def test_early_notices_and_last_words_wait_each_for_its_own() -> None:
    events = _vote(
        _trigger("ab", final=False), _trigger("abc"), _detection("a", 1), _detection("b", 1), _detection("c", 1)
    )
    assert [(event.final, len(event.channels)) for event in events] == [(False, 2), (True, 3)]


def test_an_early_notice_does_not_come_after_the_last_word() -> None:
    vote = NetworkVote()
    vote.feed(_trigger("ab", final=False))
    vote.feed(_trigger("cd"))
    assert vote.feed(_detection("c", 1)) == []
    assert [event.final for event in vote.feed(_detection("d", 1))] == [True]
    assert vote.feed(_detection("a", 1)) == vote.feed(_detection("b", 1)) == []
    assert vote.flush() == []
    both = NetworkVote()
    both.feed(_trigger("a"))
    both.feed(_trigger("a", final=False))
    assert [event.final for event in both.feed(_detection("a", 1))] == [True]


def test_flush_gives_what_waits_with_the_votes_there_are() -> None:
    vote = NetworkVote()
    vote.feed(_detection("a", 1))
    vote.feed(_trigger("ab"))
    vote.feed(_trigger("xy", uid="network-2"))
    assert [(event.uid, event.detections) for event in vote.flush()] == [("network-1", ("a",)), ("network-2", ())]
    assert vote.flush() == []


def test_of_too_many_waiting_the_oldest_goes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpret, "MOST_WAITING", 2)
    vote = NetworkVote()
    out = [event.uid for i in range(4) for event in vote.feed(_trigger("a", uid=f"network-{i}"))]
    assert out == ["network-0", "network-1"]
    assert [event.uid for event in vote.feed(_detection("a", 1))] == ["network-2", "network-3"]


def test_of_too_many_remembered_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpret, "MOST_REMEMBERED", 2)
    vote = NetworkVote()
    for uid in "abc":
        vote.feed(_detection(uid, 1))
    assert vote.feed(_trigger("a")) == []
    assert len(vote.feed(_trigger("bc", uid="network-2"))) == 1
    for uid in "xyz":
        assert vote.feed(WindowSpilled(uid)) == []
    assert vote.snapshot().spilled == ["y", "z"]


def test_an_early_notice_goes_out_without_what_is_spilled_and_the_last_word_does_not() -> None:
    vote = NetworkVote()
    assert vote.feed(_trigger("a", final=False)) == vote.feed(_trigger("ab")) == vote.feed(_detection("b", 1)) == []
    assert [event.final for event in vote.feed(WindowSpilled("a"))] == [False]
    assert [event.detections for event in vote.feed(_detection("a", 1))] == [("a", "b")]


def test_a_snapshot_holds_every_outcome_that_a_network_trigger_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpret, "MOST_WRITTEN", 2)
    vote = NetworkVote()
    for uid in "abcdefgh":
        vote.feed(_detection(uid, 1))
    vote.feed(_trigger("ax"))
    again = NetworkVote()
    again.restore(vote.snapshot(frozenset("c")))
    assert [event.detections for event in again.feed(_trigger("cgh", uid="network-2"))] == [("c", "g", "h")]
    assert [event.detections for event in again.feed(_detection("x", 1))] == [("a", "x")]


def test_what_is_forgotten_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor where restarts come in between; what was spilled is still to come."""
    monkeypatch.setattr(interpret, "MOST_WRITTEN", 2)
    monkeypatch.setattr(interpret, "MOST_OUTCOMES", 5)
    vote = NetworkVote()
    for uid in "abcd":
        vote.feed(_detection(uid, 1))
    vote.feed(WindowSpilled("s"))
    out = []
    for number in range(6):
        again = NetworkVote()
        again.restore(vote.snapshot())
        vote = again
        if number == 0:
            assert vote.feed(_trigger("ad")) == []
            assert vote.feed(_trigger("as", uid="network-2")) == []
        assert out == []
        out = vote.feed(_detection(str(number), 1))
    assert [(event.uid, event.detections) for event in out] == [("network-1", ("d",))]
    assert [(event.uid, event.detections) for event in vote.feed(_detection("s", 1))] == [("network-2", ("s",))]
