"""Shares of the stations: who serves which, what is asked for and what is dropped, and what a shard is made of."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_site import finished, settings, write_settings
from seedlink_fakes import PLAIN_V3, PLAIN_V4, RINGSERVER, FakeServer, Packet, record, records_of
from test_acquire import join

from tscc_stream import config, daemon, data_age
from tscc_stream.cli import main
from tscc_stream.config import Config, ConfigError, SeedLinkConfig
from tscc_stream.messages import RecordBatch
from tscc_stream.record_decoder import RecordDecoder
from tscc_stream.reload import ConfigFile
from tscc_stream.seedlink.position import Position
from tscc_stream.shard import Shard, owner, station_of
from tscc_stream.sharded import for_shard, own_servers, own_streams
from tscc_stream.stages.acquire import Event, Rejected, SeedLinkSession

STATIONS = [f"MN_N{number:04}" for number in range(2000)]
codes = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=1, max_size=5)
stations = st.builds("{}_{}".format, codes, codes)


@given(st.sets(stations, min_size=1, max_size=200), st.integers(1, 20))
def test_with_one_shard_more_stations_stay_or_go_to_the_new_one(names: set[str], count: int) -> None:
    for name in names:
        before, after = owner(name, count), owner(name, count + 1)
        assert after in (before, count + 1)
        assert sum(Shard(index, count).holds(name) for index in range(1, count + 1)) == 1


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_about_as_many_go_as_the_new_shard_should_have(count: int) -> None:
    gone = sum(owner(name, count) != owner(name, count + 1) for name in STATIONS)
    share = len(STATIONS) / (count + 1)
    assert abs(gone - share) < 4 * share**0.5, "within four standard deviations"


def test_shares_are_about_equal() -> None:
    shares = Counter(owner(name, 8) for name in STATIONS)
    assert set(shares) == set(range(1, 9))
    assert max(abs(one - 250) for one in shares.values()) < 4 * 250**0.5


def test_every_process_and_machine_says_the_same() -> None:
    """The numbers are written down: a change of the hash would move stations of running fleets."""
    known = {"XX_A": 3, "XX_B": 4, "XX_C": 1, "XX_D": 3, "BW_UH1": 3, "BW_UH2": 1, "YG_AB1": 4}
    assert {name: owner(name, 4) for name in known} == known
    text = f"from tscc_stream.shard import owner; print([owner(name, 4) for name in {list(known)!r}])"
    for seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", text], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        )
        assert json.loads(done.stdout) == list(known.values())


def test_channels_of_a_station_stay_together() -> None:
    ids = ["FDSN:XX_A__H_H_Z", "FDSN:XX_A__H_H_N", "FDSN:XX_A_10_E_H_E", "FDSN:XX_A_10_B_HOT_1"]
    assert {station_of(sid) for sid in ids} == {"XX_A"}
    assert len({tuple(Shard(index, 5).holds_sid(sid) for index in range(1, 6)) for sid in ids}) == 1


# What comes from a server

SIDS = [f"FDSN:XX_{name}__H_H_{component}" for name in "ABCDEFGH" for component in "ZN"]


def ring(*, version: int = 2) -> list[Packet]:
    return [Packet(n + 1, record(SIDS[n % len(SIDS)], n, version=version)) for n in range(4 * len(SIDS))]


def heard(server: FakeServer, shard: Shard | None, *streams: str) -> tuple[list[Event], SeedLinkSession]:
    made = SeedLinkConfig(server="mine:18000", streams=streams or ("XX_*",))
    session = SeedLinkSession(made, Position(), 0, shard=shard)
    return join(session, server), session


@pytest.mark.parametrize("hello", [RINGSERVER, PLAIN_V4, PLAIN_V3])
@pytest.mark.parametrize("version", [2, 3])
def test_shards_hear_together_what_one_daemon_hears_and_nothing_twice(hello: str, version: int) -> None:
    if (hello, version) == (PLAIN_V3, 3):
        version = 2  # which has no other
    whole = records_of(heard(FakeServer(ring(version=version), hello), None)[0])
    got = []
    for index in (1, 2, 3):
        events, session = heard(FakeServer(ring(version=version), hello), Shard(index, 3))
        mine = records_of(events)
        assert all(Shard(index, 3).holds_sid(one.sid) for one in mine)
        assert session.elsewhere == len(whole) - len(mine)
        assert session.unwanted == 0
        assert session.position.last is not None
        assert session.position.last.sequence == 4 * len(SIDS), "what was dropped need not come again"
        got += mine
    assert sorted((one.sid, one.start_ns, one.samples.tolist()) for one in got) == sorted(
        (one.sid, one.start_ns, one.samples.tolist()) for one in whole
    )


def test_a_broken_record_of_another_shards_station_is_not_told() -> None:
    """Its samples are damaged: whose it is shows before they are unpacked."""
    good = record("FDSN:XX_B__H_H_Z", 1)
    broken = good[:-200] + bytes(200 - 8) + b"\xff" * 8
    first = Packet(1, record("FDSN:XX_B__H_H_Z"))
    packets = [first, Packet(2, good[:60] + b"\x55" * (len(good) - 60)), Packet(3, broken)]
    told = [event for event in heard(FakeServer(packets, PLAIN_V4), None)[0] if isinstance(event, Rejected)]
    assert told, "one daemon tells it"
    for index in (1, 2):
        events, session = heard(FakeServer(packets, PLAIN_V4), Shard(index, 2))
        rejected = [event for event in events if isinstance(event, Rejected)]
        ours = Shard(index, 2).holds("XX_B")
        assert bool(rejected) == ours
        assert session.elsewhere == (0 if ours else 3)


def test_samples_of_other_shards_are_not_unpacked_and_all_else_is_the_same() -> None:
    payloads = [one.payload for one in ring()]
    at, data = [512 * n for n in range(len(payloads))], b"".join(payloads)
    (whole,) = RecordDecoder().decode(data, at, [512] * len(at))
    decoder = RecordDecoder(Shard(1, 3).holds_sid)
    for _ in range(2):  # the first record of each channel is unpacked to learn what its headers state
        (own,) = decoder.decode(data, at, [512] * len(at))
    assert isinstance(whole, RecordBatch)
    assert isinstance(own, RecordBatch)
    assert own.start_ns.tolist() == whole.start_ns.tolist()
    for n in range(len(at)):
        ours = Shard(1, 3).holds_sid(own.sids[own.channel[n]])
        assert own.record(n).samples.tolist() == (whole.record(n).samples.tolist() if ours else [])


def test_version_3_is_asked_for_own_stations_only_where_it_takes_no_patterns() -> None:
    shard = Shard(1, 2)
    server = FakeServer(ring(), PLAIN_V3, refuse=("STATION * ",))
    events, session = heard(server, shard)
    own = [name for name in "ABCDEFGH" if shard.holds(f"XX_{name}")]
    assert [line for line in server.commands if line.startswith("STATION")][1:] == [f"STATION {n} XX" for n in own]
    assert {station_of(one.sid) for one in records_of(events)} == {f"XX_{name}" for name in own}
    assert session.elsewhere == 0


def test_where_no_station_is_its_own_the_connection_lives_all_the_same() -> None:
    server = FakeServer([Packet(1, record("FDSN:XX_B__H_H_Z"))], PLAIN_V3, refuse=("STATION * ",))
    events, session = heard(server, Shard(1, 2))
    assert (records_of(events), session.elsewhere, session.streaming) == ([], 1, True)


def test_a_server_whose_stations_are_all_other_shards_is_not_silent() -> None:
    data = data_age.DataAge({"mine:1": 60.0})
    data.link("mine:1", True, 0)
    for second in range(200):
        data.heard("mine:1", second * 10**9)
        assert data.turn(second * 10**9) == []
    assert data.streams == 0
    assert [change.state for change in data.turn(300 * 10**9)] == ["SILENT"], "until nothing comes of any station"


# What a shard is made of


def fleet(count: int = 3, **over: object) -> Config:
    publish = {"bind": "tcp://0.0.0.0:5556", "replay_bind": "ipc:///run/replay"}
    made = {"shard": {"count": count}, "publish": publish, "metrics": {"bind": "[::1]:9108"}, **over}
    return config.parse(json.dumps({**settings(Path("/var")), **made}))


def test_one_file_for_all_shards() -> None:
    made = [for_shard(fleet(), index) for index in (1, 2, 3)]
    assert [one.state_dir for one in made] == [f"/var/state/shard-{index}" for index in (1, 2, 3)]
    assert [one.publish.bind for one in made] == [f"tcp://0.0.0.0:{port}" for port in (5556, 5566, 5576)]
    assert [one.publish.replay_bind for one in made] == [f"ipc:///run/replay-shard-{index}" for index in (1, 2, 3)]
    assert [one.metrics.bind for one in made] == [f"[::1]:{port}" for port in (9108, 9118, 9128)]
    assert [str(one.shard and one.shard.one) for one in made] == ["1/3", "2/3", "3/3"]
    system_chooses = fleet(publish={"bind": "tcp://127.0.0.1:0", "replay_bind": "tcp://127.0.0.1:0"})
    assert for_shard(system_chooses, 3).publish.bind == "tcp://127.0.0.1:0"


@pytest.mark.parametrize(
    ("over", "index", "words"),
    [
        ({"shard": None}, 1, "the file names no shards; expected `shard: {count: N}`"),
        ({"shard": {"index": 2, "count": 3}}, 2, "expected no shard.index in the file"),
        ({}, 4, "expected 1 to shard.count 3"),
        ({}, 0, "expected 1 to shard.count 3"),
        ({"metrics": {"bind": "127.0.0.1:5576"}}, 1, "ports 5556 and 5576 would be used by two of 3 shards"),
        ({"metrics": {"bind": "127.0.0.1:65530"}}, 1, "beyond 65535"),
    ],
)
def test_what_makes_no_shard_is_one_sentence(over: dict[str, object], index: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("{", r"\{")):
        for_shard(fleet(**over), index)


def test_an_index_beyond_the_count_is_a_mistake_of_the_file() -> None:
    with pytest.raises(ConfigError, match="index 4: expected 1 to count 3"):
        config.parse("shard: {index: 4, count: 3}")


def test_the_file_of_all_shards_runs_no_daemon_by_itself() -> None:
    with pytest.raises(ConfigError, match=r"shard.index: not given; expected run --shard, 1 to 3"):
        own_servers(fleet())


def test_named_stations_of_others_are_not_asked_for() -> None:
    entry = SeedLinkConfig(server="mine:1", streams=("XX_A:HHZ", "XX_B:HHZ", "YY_*:HHZ", "xx_c"))
    own = own_streams(entry, Shard(2, 2))
    assert own is not None
    assert own.streams == ("XX_B:HHZ", "YY_*:HHZ")
    assert own_streams(entry, None) == entry
    assert own_streams(SeedLinkConfig(server="mine:1", streams=("XX_A",)), Shard(2, 2)) is None


def test_servers_without_an_own_station_are_left_out_and_positions_keep_their_names() -> None:
    entries = [{"server": "mine:1", "streams": [name]} for name in ("XX_A", "XX_B", "XX_C", "XX_*")]
    one = for_shard(fleet(2, seedlink=entries), 2)
    assert [(server.streams, name) for server, name in own_servers(one)] == [
        (("XX_B",), "mine:1 #2"),
        (("XX_*",), "mine:1 #4"),
    ]
    nothing = for_shard(fleet(2, seedlink=entries[:1]), 2)
    with pytest.raises(ConfigError, match="shard 2/2: none of the stations that seedlink names is its own"):
        own_servers(nothing)


def test_streams_that_are_asked_for_no_longer_are_not_awaited() -> None:
    sids = [f"FDSN:XX_{station}__H_H_Z" for station in "ABCD"] + ["FDSN:YY_A__H_H_Z", "FDSN:XX_A__H_H_N"]
    entries = [{"server": "mine:1", "streams": ["XX_A:HHZ", "XX_B"]}, {"server": "mine:2", "streams": ["XX_A", "YY_*"]}]
    found = daemon.awaited_streams(fleet(seedlink=entries, shard=None), sids)
    assert found == {sids[0]: "mine:1", sids[1]: "mine:1", sids[4]: "mine:2", sids[5]: "mine:2"}
    shards = [daemon.awaited_streams(for_shard(fleet(2, seedlink=entries), index), sids) for index in (1, 2)]
    assert shards[0] | shards[1] == found
    assert not shards[0].keys() & shards[1].keys()
    assert all(shards)


def test_a_reload_compares_shard_with_shard(tmp_path: Path) -> None:
    path = write_settings(tmp_path, shard={"count": 2})
    running = for_shard(config.load(path), 2)
    file = ConfigFile(path, running, lambda fresh: for_shard(fresh, 2))
    assert file.again().told() == {}
    write_settings(tmp_path, shard={"count": 3}, novelty={"alpha": 0.05})
    again = file.again()
    assert (again.taken, again.refused) == (("novelty.alpha",), ("shard.count",))
    assert again.config.shard == running.shard
    write_settings(tmp_path, shard={"index": 1, "count": 3})
    assert file.again().mistakes == ("--shard 2: expected no shard.index in the file beside it",)


def test_check_config_shows_where_each_shard_is(tmp_path: Path) -> None:
    publish = {"bind": "tcp://127.0.0.1:5556", "replay_bind": "tcp://127.0.0.1:5557"}
    path = write_settings(tmp_path, shard={"count": 2}, publish=publish, metrics={"bind": "127.0.0.1:9108"})
    shown = finished("check-config", path)
    assert shown.returncode == 0, shown.stderr
    lines = [line for line in shown.stdout.splitlines() if line.startswith("shard ")]
    assert [line.split(":")[0] for line in lines] == ["shard 1/2", "shard 2/2"]
    assert all(word in lines[1] for word in ("state/shard-2", "5566", "5567", "9118"))


def test_check_config_names_every_shard_that_has_no_station(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They would end as soon as they are started."""
    names = ["MN_A:HHZ", "MN_B:HHZ", "MN_C:HHZ"]
    entries = [{"server": "mine:1", "streams": names[:2]}, {"server": "mine:2", "streams": names[2:]}]
    path = write_settings(tmp_path, shard={"count": 4}, seedlink=entries)
    served = {owner(name.partition(":")[0], 4) for name in names}
    empty = [index for index in range(1, 5) if index not in served]
    assert main(["check-config", str(path)]) == 2
    shown = capsys.readouterr()
    told = [line for line in shown.err.splitlines() if "none of the stations" in line]
    assert [f"shard {index}/4: " in line for index, line in zip(empty, told, strict=True)] == [True] * len(empty)
    assert "good" not in shown.out
    for index in range(1, 5):
        assert main(["check-config", str(path), "--shard", str(index)]) == (2 if index in empty else 0)
    write_settings(tmp_path, shard={"count": 4}, seedlink=[{"server": "mine:1", "streams": ["MN_*"]}])
    assert main(["check-config", str(path)]) == 0
