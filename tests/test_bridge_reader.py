"""The reader that docs/bridge.md shows, and what `doctor` says of the bridge, with a real nats-server."""

from __future__ import annotations

import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

from made_bridge import (
    NatsServer,
    PublishingSite,
    ask,
    bridge_settings,
    bridging,
    count_of,
    ids,
    needs_nats,
    stored,
    until,
)
from nats.aio.client import Client

from tscc_stream import config
from tscc_stream.apps import doctor, doctor_bridge

DOCUMENT = Path(__file__).parents[1] / "docs" / "bridge.md"

pytestmark = needs_nats


def found(path: Path) -> tuple[str, str]:
    (check,) = doctor_bridge.checks(config.load(path))
    (finding,) = doctor.carried_out(check, 10.0)
    return finding.state, finding.found


def rows(file: Path) -> list[str]:
    with sqlite3.connect(file) as events:
        try:
            return [row[0] for row in events.execute("SELECT id FROM message")]
        except sqlite3.OperationalError:  # it is not there yet
            return []
        finally:
            events.commit()


def test_the_documented_reader_has_everything_once_though_the_stream_has_it_twice(tmp_path: Path) -> None:
    (text,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    program, file = tmp_path / "centre.py", tmp_path / "centre.sqlite"
    program.write_text(text)

    async def make(client: Client) -> None:
        await client.jetstream().add_stream(name="TSCC", subjects=["tscc.>"], duplicate_window=0.1)

    with NatsServer(tmp_path / "nats") as server, PublishingSite(tmp_path / "north", "north") as site:
        path = bridge_settings(tmp_path, server, [site])
        assert found(path) == ("warn", f"NATS {server.address}: stream TSCC is not there yet")
        ask(server, make)
        assert found(path)[0] == "warn", "its window is short"
        told = [sys.executable, str(program), f"nats://{server.address}", str(file)]
        reader = subprocess.Popen(told)
        site.say_some(0, 200)
        with bridging(path) as running:
            until(lambda: rows(file), "the first rows")
            reader.send_signal(signal.SIGKILL)
            reader.wait()
            until(lambda: count_of(server) == 300, "everything")
            assert running.stop() == 0
        (tmp_path / "state" / "bridge" / "north.position").unlink()
        with bridging(path) as running:
            until(lambda: count_of(server) == 600, "everything once more")
            assert running.stop() == 0
        reader = subprocess.Popen(told)
        wanted = ids(stored(server))
        try:
            until(lambda: len(rows(file)) == len(set(wanted)), "every row")
            before = sorted(rows(file))
            server.empty()
            site.say_some(200, 201)
            with bridging(path) as running:
                until(lambda: len(rows(file)) > len(before), "what came after the store was emptied")
                assert running.stop() == 0
        finally:
            reader.kill()
            reader.wait()
        assert (len(wanted), before) == (600, sorted(set(wanted)))
    assert found(path) == ("fail", f"NATS {server.address} cannot be reached: Connection refused")


def test_doctor_has_nothing_to_say_where_there_is_no_bridge() -> None:
    assert doctor_bridge.checks(config.parse("")) == []
