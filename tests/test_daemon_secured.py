"""A daemon whose bus is secured, and `tail` with keys and a position: all as processes, as a site runs them."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from pathlib import Path

from in_time import PATIENCE_S
from made_keys import Keyring
from made_site import Running, finished, write_settings

ANY = "tcp://127.0.0.1:0"


def curve(ring: Keyring) -> dict[str, object]:
    files = {"secret_key_file": str(ring.folder / "daemon.key"), "allowed_keys_file": str(ring.allowed)}
    return {"bind": ANY, "replay_bind": ANY, "heartbeat_seconds": 0.2, "curve": files}


def test_strangers_are_refused_until_their_key_is_in_the_list(tmp_path: Path) -> None:
    ring = Keyring(tmp_path)
    ring.allow("alarm")
    path = write_settings(tmp_path, "127.0.0.1:1", publish=curve(ring))
    with Running("run", "--config", path) as daemon:
        daemon.wait_for("ready: ")
        where = json.loads((tmp_path / "state" / "endpoints.json").read_text())
        keys = ("--server-key", ring.folder / "daemon.key.pub", "--key", ring.folder / "stranger.key")
        ring.pair("stranger")
        tail = ("tail", "--connect", where["publish"], "--replay", where["replay"], "--since", 0, "--jsonl", *keys)
        with Running(*tail) as refused:
            refused.wait_for(r"refuses the key .*: it must be in the daemon's list of keys")
        with urllib.request.urlopen(f"http://{where['metrics']}/metrics", timeout=PATIENCE_S) as answer:
            assert 'tscc_bus_refused_total{reason="unknown_key"}' in answer.read().decode()

        ring.allowed.write_text("nonsense\n")
        os.kill(where["pid"], signal.SIGHUP)
        daemon.wait_for("line 1: expected a public key of 40 characters.*: who could connect so far still can")
        ring.allow("alarm", "stranger")
        os.kill(where["pid"], signal.SIGHUP)
        daemon.wait_for("2 keys may connect")
        place = ("--position", tmp_path / "position", "--count", 1)
        told = [json.loads(finished(*tail, *place).stdout) for _ in range(2)]
        daemon.wait_for("stranger .key .* connected from 127.0.0.1")
        keyless = {"bind": "127.0.0.1:0"}
        keys_of_bus = {
            "server_key": str(ring.folder / "daemon.key.pub"),
            "secret_key_file": str(tmp_path / "alarm.key"),
        }
        assert "secured" in _bus_on_health(tmp_path, ring, keyless, "BAD")
        said = _bus_on_health(tmp_path, ring, {**keyless, "bus_keys": keys_of_bus}, "OK")
        assert said == "messages go out, and this console receives them"
    assert [(one["seq"], one["subject"]) for one in told] == [(1, "daemon"), (2, "seedlink")]


def _bus_on_health(folder: Path, ring: Keyring, console: dict[str, object], word: str) -> str:
    """What a console says of the bus once it has that word for it, for three seconds on end where it is OK."""
    path = write_settings(folder, "127.0.0.1:1", publish=curve(ring), console=console)
    with Running("console", "--config", path) as running:
        address = running.wait_for(r"console on http://(127\.0\.0\.1:\d+)/")[1]
        deadline, since = time.monotonic() + PATIENCE_S, time.monotonic()
        while time.monotonic() < deadline:
            with urllib.request.urlopen(f"http://{address}/health/state.json", timeout=PATIENCE_S) as answer:
                found = {part["name"]: part for part in json.loads(answer.read())["parts"]}["bus"]
            since = since if found["word"] == word else time.monotonic()
            if found["word"] == word and (word != "OK" or time.monotonic() - since > 3):
                return str(found["what"])
            time.sleep(0.1)
    raise AssertionError(found)


def test_keys_that_cannot_be_read_are_a_wrong_configuration(tmp_path: Path) -> None:
    ring = Keyring(tmp_path)
    path = write_settings(tmp_path, "127.0.0.1:1", publish=curve(ring))
    ended = finished("run", "--config", path)
    assert ended.returncode == 2
    sentence = f"tscc-stream: publish.curve.allowed_keys_file {ring.allowed}: cannot be read: No such file or directory"
    assert sentence in ended.stderr.splitlines()
    assert ring.server.secret not in ended.stderr
