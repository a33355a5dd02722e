"""SIGHUP: what may change while running is taken over, what may not is refused by name, mistakes refuse the file."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_site import settings, write_settings
from test_daemon import daemon, listen, until

from tscc_stream import config
from tscc_stream.config import Config
from tscc_stream.reload import CHANGEABLE, ConfigFile, changes, merged

OTHER: dict[str, Any] = {
    "site": "elsewhere",
    "seedlink": [{"server": "10.0.0.1:18000", "streams": ["A_B"]}],
    "model": "models/rutford",
    "shadow": "models/rutford",
    "assemble.flat_seconds": 0.2,
    "assemble.clip_counts": None,
    "condition.band_hz": [1.0, 2.0],
    "condition.corners": 2,
    "trigger.trigger_on": 4.0,
    "network": {"min_channels": 4},
    "channels": {"A.*": {"trigger": {"trigger_on": 5.0}}},
    "inference.device": "cpu",
    "inference.max_batch": 8,
    "inference.threads": 1,
    "inference.precision": "auto",
    "inference.timeout_seconds": 5.0,
    "inference.most_restarts": 7,
    "inference.restart_window_seconds": 60.0,
    "novelty.alpha": 0.05,
    "drift.window": 200,
    "overload": "spill",
    "overload_spill_windows": 50,
    "publish.bind": "tcp://127.0.0.1:1",
    "publish.heartbeat_seconds": 2.0,
    "metrics.bind": "127.0.0.1:1",
    "retention.days": 1.0,
    "retention.max_gib": 2.0,
    "state_dir": "elsewhere",
}


def _changed(*keys: str) -> Config:
    document = Config().model_dump()
    for key in keys:
        section, _, name = key.rpartition(".")
        (document[section] if section else document)[name] = OTHER[key]
    return Config.model_validate(document)


@given(keys=st.sets(st.sampled_from(sorted(OTHER))))
def test_every_change_is_taken_or_refused_and_only_what_is_taken_holds(keys: set[str]) -> None:
    new = _changed(*keys)
    taken, refused = changes(Config(), new)
    assert set(taken) == keys & CHANGEABLE
    assert {key.removesuffix(".min_channels") for key in refused if not key.startswith("network.")} == keys - CHANGEABLE
    assert merged(Config(), new, taken) == _changed(*(keys & CHANGEABLE))
    assert changes(new, new) == ((), ())


def test_every_changeable_key_is_one() -> None:
    assert OTHER.keys() >= CHANGEABLE


def test_a_file_is_read_again_from_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_settings(tmp_path, model="models/demo")
    monkeypatch.chdir(tmp_path)
    file = ConfigFile(Path("site.yaml"), config.load(path))
    monkeypatch.chdir("/")
    assert file.again().told() == {}
    write_settings(tmp_path, model="models/demo", novelty={"alpha": 0.02}, site="other")
    reloaded = file.again()
    assert reloaded.told() == {"state": "reloaded", "taken": ["novelty.alpha"], "refused": ["site"]}
    assert (reloaded.config.novelty.alpha, reloaded.config.site) == (0.02, "test")
    assert file.again().told() == {"state": "reloaded", "taken": [], "refused": ["site"]}
    path.write_text("site: [")
    assert file.again().told()["state"] == "refused"
    path.unlink()
    gone = file.again()
    assert gone.config == reloaded.config
    assert "no such file" in gone.mistakes[0]


def _hang_up(path: Path, pid: int, **over: Any) -> None:
    path.write_text(json.dumps(settings(path.parent, **over)))
    os.kill(pid, signal.SIGHUP)


def test_hanging_up_reloads_the_file_of_a_running_daemon(tmp_path: Path) -> None:
    path = write_settings(tmp_path)
    with daemon(path) as (running, where), listen(where, "status.config.") as status:
        _hang_up(path, where["pid"], novelty={"alpha": 0.2}, overload="spill", condition={"band_hz": [5.0, 20.0]})
        told = until(status, "status.config.").body["data"]
        assert told == {
            "state": "reloaded",
            "taken": ["novelty.alpha", "overload"],
            "refused": ["condition.band_hz"],
        }
        running.wait_for(r"condition\.band_hz cannot change while running")
        _hang_up(path, where["pid"], novelty={"alpha": 3.0}, site="two words")
        told = until(status, "status.config.", state="refused").body["data"]
        assert [mistake.split(": ")[1] for mistake in told["mistakes"]] == ["novelty.alpha", "site"]
        running.wait_for("configuration refused, the running values go on: line .*novelty.alpha")
        _hang_up(path, where["pid"], novelty={"alpha": 0.2}, overload="spill")
        with listen(where, "status.model.") as models:
            for _ in range(3):
                until(models, "status.model.", state="unchanged")  # models are looked at each time
        assert running.stop() == 0


def test_what_other_programs_read_is_no_change_to_the_daemon() -> None:
    new = Config.model_validate({"time_zone": "Africa/Johannesburg", "vocabulary": [{"name": "blast"}]})
    assert changes(Config(), new) == ((), ())
