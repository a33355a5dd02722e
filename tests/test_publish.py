"""Messages on the bus are what contract and CloudEvents say; requests are taken or refused with a sentence."""

import contextlib
import json

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_messages import detection, detection_message, network_message

from tscc_stream.messages import Committed, NetworkEvent, topic_group
from tscc_stream.stages import publish
from tscc_stream.stages.publish import ModelIdentity, Page, Publish, ReplayRequest, RequestError, parse_request

MODEL = ModelIdentity("demo", "1.2", "ab" * 32)
PUBLISH = Publish("demo", MODEL)


def test_detection_body_is_the_contract_byte_for_byte() -> None:
    assert PUBLISH.detection(detection()).body.decode() == (
        '{"specversion":"1.0","type":"tscc.detection.v1","id":"u-1","source":"/tscc-stream/demo",'
        '"subject":"FDSN:BW_UH1__S_H_Z","time":"2010-05-27T16:24:33.210000Z",'
        '"data":{"onset_ns":1274977473210000999,"peak_ratio":7.25,"duration_s":0.75,"peak_amplitude":1234.5,'
        '"window":{"start_ns":1274977471210000999,"sample_rate_hz":50.0,"samples":500},'
        '"cluster":{"id":1,"name":"microseismic","membership":[0.02,0.98],"known":true,"p_value":0.43},'
        '"model":{"name":"demo","version":"1.2","sha256":"' + "ab" * 32 + '"},"quality":["clipped"],"late":false}}'
    )


def test_detection_message_carries_topic_identity_and_waveform() -> None:
    [message] = PUBLISH.feed(detection())
    assert (message.uid, message.kind, message.topic) == ("u-1", "detection", "detection.1.BW.UH1..SHZ.")
    assert (message.sid, message.onset_ns) == ("FDSN:BW_UH1__S_H_Z", 1_274_977_473_210_000_999)
    assert message.tolerance_ns == 2_500_000  # half a sample of the stream's 200 Hz, not of the window's 50 Hz
    assert message.received_ns == 17
    assert message.final
    samples = np.frombuffer(message.waveform or b"", "<f4")
    assert np.array_equal(samples, np.linspace(-1, 1, 500, dtype=np.float32))


def test_waveform_is_little_endian_and_in_time_order_whatever_the_memory_layout() -> None:
    normalised = np.asfortranarray(np.arange(1000, dtype=">f4").reshape(500, 2))
    message = PUBLISH.detection(detection(normalised=normalised))
    assert np.array_equal(np.frombuffer(message.waveform or b"", "<f4").reshape(500, 2), normalised)


def test_the_number_of_channels_is_told_where_there_are_several() -> None:
    window = json.loads(PUBLISH.detection(detection(normalised=np.zeros((500, 3), np.float32))).body)["data"]["window"]
    assert (window["samples"], window["channels"]) == (500, 3)
    assert "channels" not in json.loads(PUBLISH.detection(detection()).body)["data"]["window"]


def test_unknown_window_keeps_its_nearest_cluster_in_the_body_and_not_in_the_topic() -> None:
    message = PUBLISH.detection(detection(known=False))
    assert message.topic == "detection.unknown.BW.UH1..SHZ."
    cluster = json.loads(message.body)["data"]["cluster"]
    assert cluster == {"id": 1, "name": "unknown", "membership": [0.02, 0.98], "known": False, "p_value": None}


def test_numbers_that_json_does_not_have_are_null() -> None:
    data = json.loads(PUBLISH.detection(detection(peak_ratio=float("nan"), duration_s=float("inf"))).body)["data"]
    assert data["peak_ratio"] is None
    assert data["duration_s"] is None


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_memberships_read_back_as_the_same_float32_in_the_fewest_digits(value: float) -> None:
    [written] = publish._shortest(np.array([value], np.float32))
    assert written is not None
    assert np.float32(written) == np.float32(value)
    assert len(repr(written)) <= len(repr(float(np.float32(value))))


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (999, "1970-01-01T00:00:00.000000Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (1_274_977_473_210_000_000, "2010-05-27T16:24:33.210000Z"),
        (253_402_300_799_999_999_999, "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_iso_time(time_ns: int, text: str) -> None:
    assert publish.iso_time(time_ns) == text


def network_event(final: bool, cluster_id: int | None) -> NetworkEvent:
    return NetworkEvent(
        uid="n-1",
        onset_ns=1_000_000_000,
        duration_s=1.5,
        channels=("FDSN:A_B__E_H_Z", "FDSN:A_C__E_H_Z"),
        detections=("u-1", "u-2"),
        votes={"blast": 2},
        cluster_id=cluster_id,
        cluster_name="blast" if cluster_id is not None else "unknown",
        final=final,
    )


def test_network_event_body() -> None:
    early, last = (PUBLISH.network_event(network_event(final, 0)) for final in (False, True))
    assert last.body.decode() == (
        '{"specversion":"1.0","type":"tscc.network_event.v1","id":"n-1","source":"/tscc-stream/demo",'
        '"subject":"network","time":"1970-01-01T00:00:01.000000Z",'
        '"data":{"onset_ns":1000000000,"duration_s":1.5,"channels":["FDSN:A_B__E_H_Z","FDSN:A_C__E_H_Z"],'
        '"detections":["u-1","u-2"],"votes":{"blast":2},"cluster":{"id":0,"name":"blast"},"final":true}}'
    )
    assert (early.uid, early.final, last.uid, last.final) == ("n-1", False, "n-1", True)
    assert last.topic == "network.0."
    assert last.kind == "network"
    assert last.waveform is None


def test_network_event_of_no_known_cluster() -> None:
    [message] = PUBLISH.feed(network_event(True, None))
    assert message.topic == "network.unknown."
    assert json.loads(message.body)["data"]["cluster"] == {"id": None, "name": "unknown"}


def test_status() -> None:
    message = PUBLISH.status("time-jump", {"seconds": 3}, 1_000_000_000)
    assert (message.topic, message.kind, message.uid) == ("status.time-jump.", "status", "status-time-jump-1000000000")
    body = json.loads(message.body)
    assert (body["type"], body["subject"], body["data"]) == ("tscc.status.v1", "time-jump", {"seconds": 3})


@pytest.mark.parametrize("kind", ["", "a.b", "a b", "é", "-"])
def test_status_kind_must_not_break_topics(kind: str) -> None:
    with pytest.raises(ValueError, match="expected letters, digits and hyphens"):
        PUBLISH.status(kind, {}, 0)


@pytest.mark.parametrize(
    ("topic", "group"),
    [
        ("detection.1.BW.UH1..SHZ.", "detection.1"),
        ("waveform.detection.1.BW.UH1..SHZ.", "detection.1"),
        ("network.unknown.", "network.unknown"),
        ("status.daemon.", "status.daemon"),
    ],
)
def test_topic_group(topic: str, group: str) -> None:
    assert topic_group(topic) == group


def test_a_detection_goes_out_twice_with_one_header() -> None:
    plain, copy = publish.multiparts("e", Committed(123, 17, detection_message(1)))
    assert plain[:2] == [b"detection.1.BW.UH1..SHZ.", b'{"epoch":"e","seq":123,"topic_seq":17}']
    assert copy == [b"waveform." + plain[0], plain[1], plain[2], b"\0" * 40]
    assert len(publish.multiparts("e", Committed(1, 1, network_message(1)))) == 1


def test_heartbeat_carries_heads_and_uses_no_seq() -> None:
    topic, header, body = publish.heartbeat("demo", "e", 9, {"detection.1": 8, "network.0": 1}, 1_000_000_000)
    assert topic == b"heartbeat."
    assert json.loads(header) == {"epoch": "e", "seq": 9, "topic_seq": 0}
    event = json.loads(body)
    assert event["type"] == "tscc.heartbeat.v1"
    assert event["data"] == {"head": 9, "heads": {"detection.1": 8, "network.0": 1}}


@pytest.mark.parametrize(
    ("payload", "request_"),
    [
        (b'{"since": 3, "topic": "detection.1.", "limit": 7}', ReplayRequest(3, "detection.1.", 7)),
        (b'{"since": 0}', ReplayRequest(0, "", 500)),
        (b"{}", ReplayRequest(None, "", 500)),
        (b'{"since": 0, "topic": "det"}', ReplayRequest(0, "det", 500)),
        (b'{"since": 0, "topic": "waveform."}', ReplayRequest(0, "waveform.", 500)),
        (b'{"since": 9223372036854775807, "limit": 1000}', ReplayRequest(2**63 - 1, "", 1000)),
    ],
)
def test_requests_that_are_taken(payload: bytes, request_: ReplayRequest) -> None:
    assert parse_request(payload) == request_


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"", "expected"),
        (b"\xff\xfe", "expected"),
        (b"[]", "Expected `object`"),
        (b'{"since": -1}', ">= 0"),
        (b'{"since": 1.5}', "since"),
        (b'{"since": "1"}', "since"),
        (b'{"since": 9223372036854775808}', "since"),
        (b'{"since": 0, "limit": 0}', "limit"),
        (b'{"since": 0, "limit": 1001}', "limit"),
        (b'{"since": 0, "offset": 1}', "offset"),
        (b'{"since": 0, "topic": "a b"}', "topic"),
        (b'{"since": 0, "topic": "\\ud800"}', "expected"),
        (b'{"since": 0, "topic": "alarm."}', "prefix that begins with detection."),
        (b'{"since": 0, "topic": "wave"}', "waveform.detection."),
        (b'{"since": 0, "topic": "waveform.network."}', "waveform.detection."),
        (b'{"since": 0, "topic": "' + b"x" * 5000 + b'"}', "at most 4096 bytes"),
        (b"[" * 4000, "expected"),
    ],
)
def test_requests_that_are_refused_say_what_was_expected(payload: bytes, said: str) -> None:
    with pytest.raises(RequestError, match="expected") as refusal:
        parse_request(payload)
    assert said in str(refusal.value)
    assert len(str(refusal.value)) < 500


@given(st.binary(max_size=200) | st.recursive(st.integers() | st.text() | st.none(), st.lists).map(msgspec.json.encode))
def test_any_request_is_taken_or_refused(payload: bytes) -> None:
    with contextlib.suppress(RequestError):
        assert isinstance(parse_request(payload), ReplayRequest)


def page(*committed: Committed, through: int = 9) -> Page:
    return Page(oldest=1, head=9, heads={"detection.1": 9}, through=through, messages=committed)


def test_replay_answer_has_state_and_three_frames_per_message() -> None:
    frames = publish.reply("e", ReplayRequest(0), page(Committed(4, 2, detection_message(1)), through=4))
    assert json.loads(frames[0]) == {
        "epoch": "e",
        "oldest": 1,
        "head": 9,
        "heads": {"detection.1": 9},
        "through": 4,
        "count": 1,
        "complete": False,
        "frames": 3,
    }
    assert frames[1:] == publish.multiparts("e", Committed(4, 2, detection_message(1)))[0]


def test_replay_answer_under_waveform_has_four_frames_per_message() -> None:
    frames = publish.reply("e", ReplayRequest(0, "waveform."), page(Committed(9, 2, detection_message(1))))
    state = json.loads(frames[0])
    assert (state["frames"], state["complete"]) == (4, True)
    assert frames[1:] == publish.multiparts("e", Committed(9, 2, detection_message(1)))[1]


def test_error_answer() -> None:
    assert publish.error_reply("e", "no") == [b'{"epoch":"e","error":"no"}']


def test_answer_to_who_asks_too_early() -> None:
    sentence = b"too many requests: ask again in 0.250 s"
    assert publish.busy_reply("e", 0.25004) == [b'{"epoch":"e","error":"' + sentence + b'","retry_after_s":0.25}']
