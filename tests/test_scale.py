"""`bench scale`: costs come back out of runs, larger runs are foretold by them, a plan says what a site needs."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tscc_stream import cli, miniseed
from tscc_stream.bench import scale, scale_costs, scale_plan, scale_run
from tscc_stream.bench.load import SAMPLES, Frames, Scene
from tscc_stream.bench.measure import FIELD
from tscc_stream.bench.scale_costs import Costs, CostsError, fit
from tscc_stream.bench.scale_reader import sent_bytes
from tscc_stream.bench.scale_run import Load, Spent, Stored
from tscc_stream.pipeline import MOST_CHANNELS

COSTS = Costs(
    cores={
        "seedlink": {"fixed": 0.01, "batch": 2e-4, "sample": 3e-9},
        "front": {"fixed": 0.01, "batch": 3e-4, "sample": 1e-8, "snapshot_byte": 3e-8, "window": 1e-3},
        "inference": {"fixed": 0.01, "group": 5e-4, "window": 1e-3},
        "back": {"fixed": 0.005, "batch": 0.0, "snapshot_byte": 1e-8, "group": 1e-3, "window": 5e-4},
        "other": {"fixed": 0.003, "window": 1e-4, "delivery": 2e-5},
    },
    most_batches=150.0,
    most_groups=120.0,
    memory={"fixed": 4e8, "channel": 2e4, "sample": 90.0},
    state={"fixed": 1e4, "channel": 1500.0, "sample": 1.5},
    journal={"message": 1100.0, "waveform": 4096.0, "fixed": 2e5, "snapshot_byte": 2.0},
    message_sent=900.0,
    heartbeat_sent=350.0,
    sample_received=1.3,
    scrape_seconds={"fixed": 0.004, "channel": 1e-5},
    scrape_bytes={"fixed": 2e4, "channel": 130.0},
    written={"fixed": 1e4, "snapshot_byte": 2.5, "group": 3e4, "window": 5e3},
    pause={"fixed": 0.001, "snapshot_byte": 1e-8},
    largest={"channel": 1000.0, "sample": 1e6, "window": 60.0},
)


def ran(costs: Costs, load: Load, seconds: float = 10.0) -> Spent:
    """A run as these costs have it."""
    amounts = costs.amounts(load)
    detections = round(load.triggers_per_second * seconds)
    messages, waveforms = (detections * costs.journal[part] for part in ("message", "waveform"))
    scrape_seconds, scrape_bytes = costs.scrape(load)
    return Spent(
        load=load,
        seconds=seconds,
        cores=costs.thread_cores(load),
        batches=amounts["batch"],
        groups=amounts["group"],
        rss_bytes=costs.memory_bytes(load),
        written_bytes=costs.written_bytes_per_second(load),
        received_bytes=load.samples_per_second * costs.sample_received,
        message_sent_bytes=costs.message_sent,
        heartbeat_sent_bytes=costs.heartbeat_sent,
        scrape_seconds=scrape_seconds,
        scrape_bytes=scrape_bytes,
        waited_seconds=0.0,
        snapshots=seconds / costs.snapshot_every_seconds(load),
        snapshot_seconds=costs.pause_seconds(load),
        load_cores=0.1,
        stored=Stored(detections, costs.journal_bytes(load, detections), messages, waveforms, costs.state_bytes(load)),
    )


loads = st.builds(
    Load,
    channels=st.integers(1, 100_000),
    rate_hz=st.floats(1.0, 2000.0),
    triggers_per_second=st.floats(0.0, 500.0),
    subscribers=st.integers(0, 100),
)


@given(loads)
def test_a_fit_foretells_what_it_has_not_seen(load: Load) -> None:
    """Every cost that was planted comes back: the calibration runs tell them apart."""
    found = fit([ran(COSTS, one) for one in scale.CALIBRATION])
    assert found.all_cores(load) == pytest.approx(COSTS.all_cores(load), rel=1e-3)
    assert found.memory_bytes(load) == pytest.approx(COSTS.memory_bytes(load), rel=1e-6)
    assert found.journal_bytes(load, 1e6) == pytest.approx(COSTS.journal_bytes(load, 1e6), rel=1e-6)
    assert found.written_bytes_per_second(load) == pytest.approx(COSTS.written_bytes_per_second(load), rel=1e-3)
    assert found.pause_seconds(load) == pytest.approx(COSTS.pause_seconds(load), rel=1e-6)
    assert found.scrape(load) == pytest.approx(COSTS.scrape(load))


@given(st.lists(st.floats(0.9, 1.1), min_size=6, max_size=6))
def test_a_fit_with_noise_has_no_negative_cost_and_foretells_about_the_same(noise: list[float]) -> None:
    runs = [ran(COSTS, one) for one in scale.CALIBRATION]
    shaken = [
        replace(one, cores={name: share * by for name, share in one.cores.items()})
        for one, by in zip(runs, noise, strict=True)
    ]
    found = fit(shaken)
    assert all(cost >= 0.0 for thread in found.cores.values() for cost in thread.values())
    assert found.all_cores(scale.LARGE) == pytest.approx(COSTS.all_cores(scale.LARGE), rel=0.5)


@given(loads)
def test_work_that_goes_together_and_snapshots_have_an_upper_limit(load: Load) -> None:
    amounts = COSTS.amounts(load)
    assert amounts["batch"] <= min(load.records_per_second, COSTS.most_batches)
    assert amounts["group"] <= min(load.triggers_per_second, COSTS.most_groups)
    assert amounts["snapshot_byte"] <= 500_000 * (1 + 1e-9)
    assert COSTS.snapshot_every_seconds(load) >= 2.0
    assert amounts["snapshot_byte"] * COSTS.snapshot_every_seconds(load) == pytest.approx(COSTS.state_bytes(load))


def test_few_things_are_done_one_by_one() -> None:
    assert COSTS.amounts(Load(1, 1.0, 0.001))["group"] == pytest.approx(0.001, rel=1e-4)
    assert COSTS.amounts(Load(10_000, 1000.0, 1e5))["batch"] == pytest.approx(COSTS.most_batches, rel=0.01)


def test_costs_of_too_few_runs_are_refused() -> None:
    with pytest.raises(CostsError, match="expected at least 3 of different sizes"):
        fit([ran(COSTS, Load(10, 100.0, float(triggers))) for triggers in range(5)])


def test_what_was_foretold_stands_beside_what_came() -> None:
    def runner(load: Load, seconds: float) -> Spent:
        seen = ran(COSTS, load, seconds)
        dearer = {name: 1.25 * share for name, share in seen.cores.items()}
        return replace(seen, cores=dearer) if load == scale.LARGE else seen

    results, found = scale.run(runner=runner)
    whole = results["scale_cpu"]
    assert found.largest["channel"] == scale.LARGE.channels
    assert whole[FIELD].value == pytest.approx(1.25 * COSTS.all_cores(scale.LARGE))
    assert whole["predicted"].value == pytest.approx(COSTS.all_cores(scale.LARGE), rel=1e-3)
    assert whole["predicted"].ratio == pytest.approx(0.8, rel=1e-3)
    assert whole["error"].value == pytest.approx(-20.0, abs=0.1)
    assert abs(results["scale_memory"]["error"].value) < 0.01
    assert abs(results["scale_journal"]["error"].value) < 0.01
    assert results["scale_size_each"]["journal_message_and_waveform"].value == pytest.approx(5196.0)


def test_the_large_run_is_four_times_the_largest_of_the_others() -> None:
    for amount in ("channels", "samples_per_second"):
        largest = max(getattr(one, amount) for one in scale.CALIBRATION)
        assert getattr(scale.LARGE, amount) == scale.TIMES * largest


def written(folder: Path, costs: Costs = COSTS) -> Path:
    path = folder / "costs.json"
    some = {bench: {v: f.document() for v, f in of.items()} for bench, of in scale_costs.stored(costs).items()}
    path.write_text(json.dumps(some))
    return path


def test_costs_are_read_from_what_the_bench_has_written(tmp_path: Path) -> None:
    found, expected = (msgspec.to_builtins(one) for one in (scale_costs.read(written(tmp_path)), COSTS))
    flat = scale_costs.stored(scale_costs.read(written(tmp_path)))["scale_costs"]
    assert {name: figure.value for name, figure in flat.items()} == pytest.approx(
        {name: figure.value for name, figure in scale_costs.stored(COSTS)["scale_costs"].items()}
    )
    assert found.keys() == expected.keys()


BROKEN: list[Callable[[dict[str, Any]], object]] = [
    lambda costs: costs.pop("memory.fixed"),
    lambda costs: costs.pop("cores.front.window"),
    lambda costs: costs.update({"memory.fixed": {"value": "many", "unit": "ns"}}),
    lambda costs: costs.update({"memory": {"value": 1.0, "unit": "ns"}}),
    lambda costs: costs.update({"most_batches": {"value": -1.0, "unit": "bytes or 1/s"}}),
    lambda costs: costs.update({"surprise": {"value": 1.0, "unit": "ns"}}),
]


@pytest.mark.parametrize("broken", BROKEN)
def test_a_file_without_whole_costs_is_refused_in_one_sentence(
    broken: Callable[[dict[str, Any]], object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path)
    document = json.loads(path.read_text())
    broken(document["scale_costs"])
    path.write_text(json.dumps(document))
    site = ["--channels", "10", "--rate", "100", "--triggers", "1"]
    assert cli.main(["bench", "scale", "--costs", str(path), *site]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said == [f"tscc-stream: {path}: expected a file that `bench scale --json` has written, with scale_costs"]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CostsError, match=r"nowhere\.json: No such file"):
        scale_costs.read(tmp_path / "nowhere.json")


ROOT = Path(__file__).parent.parent


def test_the_plans_of_the_document_are_what_its_costs_say() -> None:
    costs = scale_costs.read(ROOT / "docs" / "scaling-costs.json")
    lines = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8").splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("| | channels | Hz |"))
    rows = [line.strip("|").split("|") for line in itertools.takewhile(bool, lines[at + 2 :])]
    assert len(rows) == 4
    for row in rows:
        channels, rate, triggers, subscribers, *told = (float(cell.replace(",", "")) for cell in row[1:])
        found = scale_plan.needs(costs, Load(int(channels), rate, triggers, int(subscribers)))
        assert found.shards == 1
        assert not found.gpu_pays
        expected = [found.cores, found.memory_bytes / 1e9, found.journal_bytes / 1e9, found.written_bytes / 1e6]
        expected += [found.received_bytes * 8e-6, found.sent_bytes * 8e-6]
        assert told == pytest.approx(expected, rel=0.05, abs=0.06), row[0]


@given(loads, loads)
def test_more_never_needs_less(one: Load, other: Load) -> None:
    larger = Load(
        max(one.channels, other.channels),
        max(one.rate_hz, other.rate_hz),
        max(one.triggers_per_second, other.triggers_per_second),
        max(one.subscribers, other.subscribers),
    )
    few, many = scale_plan.needs(COSTS, one), scale_plan.needs(COSTS, larger)
    for name in ("shards", "memory_bytes", "journal_bytes", "received_bytes", "sent_bytes", "encoder_cores"):
        assert getattr(many, name) >= getattr(few, name) * (1 - 1e-9), name
    assert many.cores >= 0.8 * few.cores  # another shard is another interpreter, fuller ones gather more


@given(loads)
def test_no_daemon_of_a_plan_is_fuller_than_it_may_be(load: Load) -> None:
    found = scale_plan.needs(COSTS, load)
    whole = scale_plan.threads_of(COSTS, load)
    assert max(whole.values()) / found.shards <= scale_plan.MOST_OF_A_CORE
    assert sum(whole.values()) / found.shards <= scale_plan.CORES_OF_A_DAEMON
    if found.shards < load.channels:
        assert max(found.each.values()) <= scale_plan.MOST_OF_A_CORE
        assert sum(found.each.values()) <= scale_plan.CORES_OF_A_DAEMON


def test_a_share_of_a_large_load_is_planned_with_what_each_daemon_costs_by_itself() -> None:
    costs = scale_costs.read(ROOT / "docs" / "scaling-costs.json")
    load = Load(50_000, 1000.0, 500.0)
    found = scale_plan.needs(costs, load)
    fewer = Load(math.ceil(50_000 / (found.shards - 1)), 1000.0, 500.0 / (found.shards - 1))
    assert sum(found.each.values()) <= scale_plan.CORES_OF_A_DAEMON < costs.all_cores(fewer)
    assert f"all threads {sum(found.each.values()):.2f}" in scale_plan.told(found, "here")


@given(loads)
def test_no_daemon_of_a_plan_has_more_channels_than_it_takes(load: Load) -> None:
    """Beyond the limit new channels are turned away, however little they cost."""
    assert math.ceil(load.channels / scale_plan.needs(COSTS, load).shards) <= MOST_CHANNELS


def test_many_slow_channels_are_divided_and_a_pattern_brings_all_of_them_to_each_daemon() -> None:
    costs = scale_costs.read(ROOT / "docs" / "scaling-costs.json")
    found = scale_plan.needs(costs, Load(200_000, 1.0, 1.0))
    assert found.shards == 4
    assert found.received_by_pattern_bytes == pytest.approx(4 * found.received_bytes)
    assert found.received_bytes == pytest.approx(200_000 * costs.sample_received)
    told = scale_plan.told(found, "here")
    assert "each: 50,000 channels of at most 50,000" in told
    named, by_pattern = told.splitlines()[(at := _line_of(told, "network in")) : at + 2]
    assert f"{found.received_bytes * 8e-6:.2f} Mbit/s   SeedLink, where stations are named one by one" in named
    assert (
        f"{found.received_by_pattern_bytes * 8e-6:.2f} Mbit/s   where by a pattern: all records to each" in by_pattern
    )
    figures = scale_plan.figures(found)["scale_plan"]
    assert figures["network_in_pattern"].value == pytest.approx(4 * figures["network_in"].value)


def _line_of(told: str, what: str) -> int:
    return next(number for number, line in enumerate(told.splitlines()) if line.startswith(what))


def test_a_pattern_costs_each_reader_the_others_records() -> None:
    load = Load(100_000, 1000.0, 10.0)
    found = scale_plan.needs(COSTS, load)
    assert found.shards > 1
    others = load.records_per_second * (1 - 1 / found.shards)
    assert found.reader_by_pattern - found.each["seedlink"] == pytest.approx(0.5e-6 * others, rel=0.05)
    alone = scale_plan.needs(COSTS, Load(100, 100.0, 1.0))
    assert alone.reader_by_pattern == alone.each["seedlink"]
    assert alone.received_by_pattern_bytes == alone.received_bytes
    assert "by a pattern" not in scale_plan.told(alone, "here")


def test_a_plan_is_told_in_words_and_in_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = ["--channels", "4000", "--rate", "500", "--triggers", "40", "--subscribers", "3", "--days", "10"]
    out = tmp_path / "plan.json"
    assert cli.main(["bench", "scale", "--costs", str(written(tmp_path)), *site, "--json", str(out)]) == 0
    said = capsys.readouterr().out
    assert "4,000 channels of 500 Hz, 40 triggers/s, 3 subscribers, journal of 10 days" in said
    for what in (
        "daemons",
        "cores",
        "GPU",
        "memory",
        "journal",
        "disk writes",
        "network in",
        "network out",
        "scrape",
        "snapshot",
    ):
        assert any(line.startswith(what) for line in said.splitlines()), what
    plan = {name: figure["value"] for name, figure in json.loads(out.read_text())["scale_plan"].items()}
    load = Load(4000, 500.0, 40.0, 3)
    assert plan["network_in"] == pytest.approx(2e6 * 1.3 * 8 / 1e6)
    assert plan["journal"] == pytest.approx(10 * 86_400 * 40 * 5196 / 1e9, rel=0.01)
    assert plan["cores"] == math.ceil(2 * plan["work"])
    assert plan["work"] == pytest.approx(scale_plan.needs(COSTS, load).cores, rel=1e-5)
    assert plan["gpus"] == 0


def test_a_gpu_pays_where_the_encoder_takes_cores_and_what_is_extrapolated_is_called_so() -> None:
    few = scale_plan.needs(COSTS, Load(1000, 500.0, 200.0))
    assert not few.gpu_pays
    assert "extrapolated" not in scale_plan.told(few, "here")
    found = scale_plan.needs(COSTS, Load(1000, 500.0, 2100.0))
    assert found.gpu_pays
    assert "35 times" in scale_plan.told(found, "here")
    assert "a GPU pays" in scale_plan.told(found, "here")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["encoder", "--channels", "5"], "--channels: only `bench scale` takes it"),
        (["scale", "--channels", "5", "--rate", "100"], "--channels: a plan needs --channels, --rate and --triggers; --triggers is missing"),  # noqa: E501  # a case is a line
        (["scale", "--costs", "x.json"], "--costs: a plan needs --channels, --rate and --triggers; --channels is missing"),  # noqa: E501  # a case is a line
        (["scale", "--channels", "0", "--rate", "100", "--triggers", "1"], "--channels 0: expected a number from 0.001 to 1e+07"),  # noqa: E501  # a case is a line
        (["scale", "--channels", "5", "--rate", "nan", "--triggers", "1"], "--rate nan: expected a number from 0.001 to 1e+07"),  # noqa: E501  # a case is a line
    ],
)  # fmt: skip
def test_wrong_arguments_get_one_sentence(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", *arguments]) == 2
    assert capsys.readouterr().err.splitlines() == [f"tscc-stream: {said}"]


def test_threads_of_the_daemon_are_told_by_what_they_do() -> None:
    names = {"seedlink 127.0.": "seedlink", "seedlink-ring": "seedlink", "encoder 1": "inference", "back": "back"}
    assert {name: scale_run.thread_of(name) for name in names} == names
    assert scale_run.thread_of("python") == scale_run.thread_of("") == "other"


def test_bytes_of_a_frame_are_those_of_zmtp() -> None:
    assert (sent_bytes(0), sent_bytes(255), sent_bytes(256)) == (2, 257, 265)


@pytest.mark.parametrize("rate_hz", [100.0, 250.0, 1000.0])
def test_a_slow_channel_s_events_are_as_many_samples_as_a_fast_one_s(rate_hz: float) -> None:
    scene = Scene(4, 20.0, 1.0, rate_hz=rate_hz, quiet_s=8.0)
    assert scene.planted
    assert len(Frames(scene, 4).of(0, scene.records)) % scene.records == 0


def test_every_one_of_many_channels_has_a_code_of_its_own() -> None:
    scene = Scene(20_001, 1.0, 0.0)
    assert len(set(scene.sids)) == 20_001
    some = replace(scene, channels=3)
    some.__dict__["sids"] = [scene.sids[number] for number in (0, 10_000, 20_000)]
    frames = Frames(some, 3).of(0, 3)
    found = [miniseed.decode(frames[at + 8 : at + 520]) for at in range(0, len(frames), 520)]
    assert [one.sid for one in found] == ["FDSN:XX_L0000__G_H_Z", "FDSN:XX_L0000_1_G_H_Z", "FDSN:XX_L0000_2_G_H_Z"]
    assert {one.samples.size for one in found} == {SAMPLES}


def test_a_real_daemon_is_measured(tmp_path: Path) -> None:
    """Real processes and sockets; what is asserted is what must be so however slow this machine is."""
    load = Load(6, 1000.0, 3.0, 2)
    seen = scale_run.run(load, 2.0, quiet_s=5.0)
    assert set(seen.cores) == set(scale_run.THREADS)
    assert 0.0 < seen.all_cores < 4.0
    assert seen.rss_bytes > 1e8
    assert seen.stored.detections >= 3
    assert seen.stored.file_bytes > seen.stored.waveform_bytes > 4000 * (seen.stored.detections - 1)
    assert seen.stored.message_bytes > 500 * seen.stored.detections
    assert seen.message_sent_bytes > 500
    assert seen.heartbeat_sent_bytes > 100
    assert seen.scrape_bytes > 5000
    assert seen.received_bytes == pytest.approx(6 * 1000 * 537 / SAMPLES, rel=0.3)
    planted = [replace(ran(COSTS, one), load=one) for one in scale.CALIBRATION[:3]]
    assert fit([*planted, seen]).all_cores(load) > 0.0
