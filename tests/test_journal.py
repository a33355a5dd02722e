"""Numbers have no holes, what is there is not stored twice, and how messages are grouped changes nothing."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from made_messages import detection_message, network_message

from tscc_stream.messages import Committed, Message, topic_group
from tscc_stream.stages.journal import number

SIDS = ("FDSN:A_A__E_H_Z", "FDSN:A_B__E_H_Z")
TOLERANCE_NS = 5


class Memory:
    """A journal in memory, in the plainest way."""

    def __init__(self) -> None:
        self.committed: list[Committed] = []
        self.duplicates = 0
        self.heads: dict[str, int] = {}

    def append(self, messages: list[Message]) -> None:
        numbered = number(messages, len(self.committed), self.heads, self)
        self.committed += numbered.committed
        self.duplicates += numbered.duplicates
        self.heads = numbered.heads
        assert numbered.head == len(self.committed)

    def has_uid(self, uid: str, final: bool) -> bool:
        return any(one.message.uid == uid and (one.message.final or not final) for one in self.committed)

    def has_onset(self, sid: str, from_ns: int, to_ns: int) -> bool:
        return any(
            one.message.kind == "detection" and one.message.sid == sid and from_ns <= one.message.onset_ns <= to_ns
            for one in self.committed
        )

    def numbers(self) -> list[tuple[int, int, str, bool]]:
        return [(one.seq, one.topic_seq, one.message.uid, one.message.final) for one in self.committed]


@st.composite
def messages(draw: st.DrawFn) -> Message:
    onset_ns = draw(st.integers(0, 60))
    sid = draw(st.sampled_from(SIDS))
    cluster = draw(st.integers(0, 2))
    kind = draw(st.sampled_from(["detection", "detection", "network", "status"]))
    if kind == "detection":
        uid = f"{sid}-{onset_ns}" if draw(st.booleans()) else f"u-{draw(st.integers(0, 9))}"
        return Message(uid, kind, f"detection.{cluster}.X.", b"{}", onset_ns, sid, TOLERANCE_NS)
    if kind == "network":
        return Message(f"n-{onset_ns % 3}", kind, f"network.{cluster}.", b"{}", onset_ns, final=draw(st.booleans()))
    return Message(f"s-{onset_ns}", kind, "status.daemon.", b"{}", onset_ns)


def appended(groups: list[list[Message]]) -> Memory:
    memory = Memory()
    for group in groups:
        memory.append(group)
    return memory


@given(st.lists(messages(), max_size=40), st.data())
def test_grouping_changes_nothing(stream: list[Message], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    groups = [stream[a:b] for a, b in pairwise([0, *cuts, len(stream)])]
    cut, singly, whole = appended(groups), appended([[one] for one in stream]), appended([stream])
    assert cut.numbers() == singly.numbers() == whole.numbers()
    assert cut.duplicates == singly.duplicates == whole.duplicates == len(stream) - len(whole.committed)


@given(st.lists(messages(), max_size=40), st.data())
def test_the_same_data_again_add_nothing(stream: list[Message], data: st.DataObject) -> None:
    """A restart rewinds to some place in the past and makes the messages from there once more."""
    memory = appended([stream])
    before = memory.numbers()
    memory.append(stream[data.draw(st.integers(0, len(stream))) :])
    assert memory.numbers() == before


@given(st.lists(messages(), max_size=40))
def test_numbers_and_identities_hold(stream: list[Message]) -> None:
    memory = appended([stream])
    assert [one.seq for one in memory.committed] == list(range(1, len(memory.committed) + 1))
    for group in memory.heads:
        counted = [one.topic_seq for one in memory.committed if topic_group(one.message.topic) == group]
        assert counted == list(range(1, memory.heads[group] + 1))
    assert sum(memory.heads.values()) == len(memory.committed)
    identities = [(one.message.uid, one.message.final) for one in memory.committed]
    assert len(set(identities)) == len(identities)
    for sid in SIDS:
        onsets = sorted(one.message.onset_ns for one in memory.committed if one.message.sid == sid)
        assert all(b - a > TOLERANCE_NS for a, b in pairwise(onsets))


def test_early_notice_then_last_word_and_never_the_other_way_round() -> None:
    memory = appended([[network_message(1, final=False)], [network_message(1)], [network_message(1, final=False)]])
    assert [one.message.final for one in memory.committed] == [False, True]
    assert memory.duplicates == 1
    together = appended([[network_message(1, final=False), network_message(1), network_message(1, final=False)]])
    assert together.numbers() == memory.numbers()
    late = appended([[network_message(1), network_message(1, final=False)]])
    assert [one.message.final for one in late.committed] == [True]


def test_half_a_sample_is_the_same_onset_and_more_is_not() -> None:
    first = detection_message(1)
    at = first.onset_ns

    def beside(uid: str, onset_ns: int, sid: str = first.sid) -> Message:
        return Message(uid, "detection", first.topic, b"{}", onset_ns, sid, 2_500_000)

    memory = appended([[first, beside("a", at + 2_500_000), beside("b", at - 2_500_000), beside("c", at + 2_500_001)]])
    assert [one.message.uid for one in memory.committed] == [first.uid, "c"]
    memory.append([beside("d", at, sid="FDSN:BW_OTHER__S_H_Z")])
    assert memory.committed[-1].message.uid == "d"


def test_heads_are_continued_and_the_ones_passed_in_are_left_alone() -> None:
    heads = {"detection.1": 4}
    numbered = number([detection_message(1), detection_message(4)], 10, heads, Memory())
    assert [(one.seq, one.topic_seq) for one in numbered.committed] == [(11, 5), (12, 6)]
    assert heads == {"detection.1": 4}
