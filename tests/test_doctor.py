"""Faults planted in a real machine, site and server: doctor finds each, says what to do, and goes on."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from faulty_process import FaultyProcess
from in_time import PATIENCE_S
from made_certificate import make_certificate, needs_openssl
from made_site import CHANNELS, SECONDS, START_NS, Running, finished, make_archive, samples_of, serving, write_settings

from tscc_stream import miniseed, package
from tscc_stream.apps import doctor, doctor_links, doctor_machine, doctor_ports, doctor_site, doctor_state
from tscc_stream.apps.finding import Check, Finding, ok
from tscc_stream.config import RetentionConfig, load
from tscc_stream.edges.seedlink_dial import Dialer
from tscc_stream.edges.seedlink_probe import converse
from tscc_stream.edges.sqlite import JournalFile
from tscc_stream.seedlink.held_streams import held_streams
from tscc_stream.seedlink.info import Answer, Info
from tscc_stream.source_id import from_nslc

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with four streams of 100 Hz, recorded years ago."""
    server, address = serving(make_archive(tmp_path_factory.mktemp("mine")), "--speed", "max")
    with server:
        yield address


def links(path: Path) -> dict[str, Finding]:
    """What is found at the servers of a configuration, by the first word of the check."""
    settings = load(path)
    spec = package.load(package.find(settings.model)).spec
    found: list[Finding] = []
    for check in doctor_links.checks(settings, spec):
        found += doctor.carried_out(check, 10.0)
    return {finding.check.split()[0]: finding for finding in found}


def state(folder: Path, max_gib: float = 0.001) -> doctor_state.StateFolder:
    return doctor_state.StateFolder(folder, RetentionConfig(max_gib=max_gib))


def site(path: Path) -> doctor_site.Site:
    return doctor_site.Site(load(path), path, {})


def expect(finding: Finding, state: str, found: str, todo: str) -> None:
    assert finding.state == state, finding
    assert found in finding.found, finding
    assert todo in finding.todo, finding


def open_to_everybody(folder: Path) -> None:
    """Folders of pytest are its own, and a secret in one would be none that everybody can read."""
    for one in (folder, *folder.parents):
        if one == Path(tempfile.gettempdir()):
            return
        one.chmod(one.stat().st_mode | 0o055)


@contextmanager
def mounted(place: Path, *options: str) -> Iterator[None]:
    """A small file system in memory."""
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(place)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


# ---- the machine


def test_a_machine_without_a_configuration_is_told_what_to_do_next() -> None:
    done = finished("doctor")
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert [line for line in lines if line.startswith("ok    torch: ")]
    (told,) = [line for line in lines if "config: none was given" in line]
    assert "-> tscc-stream check-config --example > site.yaml" in told or "doctor --config /etc" in told
    assert "0 fail" in lines[-1]


def test_the_clock_and_the_memory_are_told_as_the_kernel_has_them() -> None:
    (clock,) = doctor_machine.clock()
    assert time.strftime("%Y-") in clock.found
    assert any(word in clock.found for word in ("synchronised", "cannot be told"))
    (memory,) = doctor_machine.memory()
    assert f"{len(os.sched_getaffinity(0))} core(s)" in memory.found


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [("2.13.0+cpu", ">=2.6,<2.14", True), ("2.14.0", "<2.14,>=2.6", False), ("2.5", ">=2.6", False), ("1", "", True)],
)
def test_versions_are_compared_as_numbers(version: str, wanted: str, fits: bool) -> None:
    assert doctor_machine.fits(version, wanted) is fits


def test_a_package_that_is_too_old_is_found(tmp_path: Path) -> None:
    """In a process whose packages say so: metadata of an older obspy come first on the path."""
    folder = tmp_path / "obspy-1.4.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: obspy\nVersion: 1.4.0\n")
    text = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from tscc_stream.apps import doctor_machine as m; "
    text += "(f,) = m.packages(); print(f.state, f.found, f.todo)"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert done.stdout.startswith("fail obspy 1.4.0, expected")
    assert "constraints.txt" in done.stdout


def test_a_check_that_hangs_or_breaks_ends_no_other(tmp_path: Path) -> None:
    """A password file that is a pipe nobody writes to holds up whoever reads it."""
    os.mkfifo(tmp_path / "pipe")

    def hangs() -> list[Finding]:
        (tmp_path / "pipe").read_text()
        return [ok("pipe", "read")]

    def breaks() -> list[Finding]:
        raise RuntimeError("odd\nthing")

    checks = [Check("pipe", hangs), Check("odd", breaks), Check("well", lambda: [ok("well", "it is")])]
    found = list(doctor._all(checks, 0.2))
    (tmp_path / "pipe").write_text("")  # lets the thread go
    assert [finding.state for finding in found] == ["fail", "fail", "ok"]
    expect(found[0], "fail", "no answer within 0.2 s", "look at it by hand")
    expect(found[1], "fail", "RuntimeError: odd thing", "right user")


def test_the_whole_program_ends_in_time_though_a_server_says_nothing(tmp_path: Path) -> None:
    with FaultyProcess("black_hole", archive=make_archive(tmp_path / "a", channels=CHANNELS[:1])) as server:
        path = write_settings(tmp_path, server.addresses["black_hole"])
        begun = time.monotonic()
        done = finished("doctor", "--config", path, "--json")
        report = json.loads(done.stdout)
    assert time.monotonic() - begun < 40.0
    assert (done.returncode, report["ok"]) == (1, False)
    by_name = {check["check"].split()[0]: check for check in report["checks"]}
    assert by_name["seedlink"]["state"] == "fail"
    assert "firewall" in by_name["seedlink"]["todo"] or "SeedLink server" in by_name["seedlink"]["todo"]
    assert by_name["model"]["state"] == "ok"


# ---- the configuration, the model, secrets


def test_a_mistake_in_the_configuration(tmp_path: Path) -> None:
    path = write_settings(tmp_path, novelty={"alpha": 2.0}, site="two words")
    findings = list(doctor.examine(path))
    wrong = [finding for finding in findings if finding.check == "config"]
    assert [finding.state for finding in wrong] == ["fail", "fail"]
    expect(wrong[1], "fail", "novelty.alpha", "check-config")
    assert doctor.summary(findings).startswith("2 fail")


def test_one_byte_of_the_model_was_changed(tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(package.find("models/demo"), copy)
    path = write_settings(tmp_path, model=str(copy))
    assert next(doctor_site.model(site(path))).state == "ok"
    with (copy / "encoder.ts").open("r+b") as file:
        file.seek(1000)
        byte = file.read(1)
        file.seek(1000)
        file.write(bytes([byte[0] ^ 1]))
    (finding,) = doctor_site.model(site(path))
    expect(finding, "fail", "encoder.ts was changed", "install the package anew")


def test_a_secret_that_everybody_can_read(tmp_path: Path) -> None:
    open_to_everybody(tmp_path)
    secret = tmp_path / "password"
    secret.write_text("open sesame\n")
    secret.chmod(0o644)
    entry = {"server": "127.0.0.1:1", "streams": ["XX_*"], "user": "u", "password_file": str(secret)}
    path = write_settings(tmp_path, seedlink=[entry])
    (finding,) = doctor_site.secrets(site(path))
    expect(finding, "fail", "everybody on this machine can read it", "chmod 600")
    assert "seedlink[0].password_file" in finding.check
    secret.chmod(0o600)
    assert [finding.state for finding in doctor_site.secrets(site(path))] == ["ok"]
    secret.unlink()
    (finding,) = doctor_site.secrets(site(path))
    expect(finding, "fail", "not there", "install -m 600")


@pytest.mark.parametrize("key", ["creds_file", "nkey_file", "token_file"])
def test_a_secret_of_nats_that_everybody_can_read(tmp_path: Path, key: str) -> None:
    open_to_everybody(tmp_path)
    secret = tmp_path / "nats"
    secret.write_text("SUAMADE")
    secret.chmod(0o644)
    path = write_settings(tmp_path, bridge={key: str(secret)})
    (finding,) = doctor_site.secrets(site(path))
    expect(finding, "fail", "everybody on this machine can read it", "chmod 600")
    assert finding.check == f"file bridge.{key}"


def test_a_certificate_is_no_secret(tmp_path: Path) -> None:
    open_to_everybody(tmp_path)
    for name, mode in (("certificate", 0o644), ("key", 0o600)):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(mode)
    named = {"tls_certificate": str(tmp_path / "certificate"), "tls_key": str(tmp_path / "key")}
    path = write_settings(tmp_path, metrics={"bind": "127.0.0.1:0", **named})
    assert [finding.state for finding in doctor_site.secrets(site(path))] == ["ok", "ok"]


def test_secrets_of_the_service_are_looked_for_beside_the_configuration(tmp_path: Path) -> None:
    entry = {"server": "127.0.0.1:1", "streams": ["XX_*"], "user": "u", "password_file": "seedlink"}
    path = write_settings(tmp_path, seedlink=[entry])
    (finding,) = doctor_site.secrets(site(path))
    assert finding.state in ("fail", "warn")
    assert str(tmp_path / "site.credentials" / "seedlink") in finding.found
    (tmp_path / "site.credentials").mkdir(mode=0o700)
    (tmp_path / "site.credentials" / "seedlink").write_text("x")
    assert next(doctor_site.secrets(site(path))).state == "ok"


@needs_openssl
def test_a_certificate_with_the_key_of_another(tmp_path: Path) -> None:
    one, other = make_certificate(tmp_path, "one"), make_certificate(tmp_path, "other")
    metrics = {"bind": "127.0.0.1:0", "tls_certificate": str(one.certificate), "tls_key": str(other.key)}
    found = {finding.check: finding for finding in doctor_site.people(site(write_settings(tmp_path, metrics=metrics)))}
    expect(found["certificate of metrics"], "fail", "do not go together", "make both anew")


@pytest.mark.parametrize(
    ("said", "state", "todo"),
    [
        ({"LoadState": "not-found"}, "warn", "As a service"),
        ({"LoadState": "loaded", "ActiveState": "failed", "Result": "exit-code"}, "fail", "journalctl -u"),
        ({"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "disabled"}, "warn", "systemctl enable"),
        ({"LoadState": "loaded", "ActiveState": "inactive", "UnitFileState": "enabled"}, "warn", "systemctl start"),
        ({"LoadState": "loaded", "ActiveState": "active", "NRestarts": "9"}, "warn", "why it ended"),
        ({"LoadState": "loaded", "ActiveState": "active", "NRestarts": "0"}, "ok", ""),
    ],
)
def test_what_systemd_says(said: dict[str, str], state: str, todo: str) -> None:
    expect(doctor_site.judge("tscc-stream.service", said), state, "tscc-stream.service", todo)


def systemd_that_says(folder: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> Path:
    """A systemctl of our own, before the machine's; the file in which it writes what it was asked."""
    asked = folder / "asked"
    program = folder / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nshift 2; for unit; do echo $unit >> {asked}; printf "${{between}}{said}"; between="\\n"; done\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(doctor_site, "SYSTEMD", folder)
    return asked


STOPPED = "LoadState=loaded\\nActiveState=inactive\\nSubState=dead\\nUnitFileState=enabled\\n"


def test_of_a_shard_systemd_is_asked_for_its_own_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = systemd_that_says(tmp_path, monkeypatch, STOPPED)
    path = write_settings(tmp_path, shard={"count": 3})
    JournalFile(tmp_path / "state" / "shard-2" / "journal.sqlite").close()
    found = {finding.check: finding for finding in doctor.examine(path, shard=2)}
    unit = "tscc-stream-shard@2.service"
    assert asked.read_text() == f"{unit}\n"
    expect(found["service"], "warn", f"{unit}: inactive", f"systemctl start {unit}")
    expect(found["daemon"], "warn", "shard-2 last", f"systemctl start {unit}, or tscc-stream run --shard 2, starts it")


def test_of_a_file_for_several_shards_each_unit_is_looked_at_and_no_port_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ports are those of shard 1, which may run; to end that one would be wrong advice."""
    asked = systemd_that_says(tmp_path, monkeypatch, STOPPED)
    path = write_settings(tmp_path, shard={"count": 3})
    found = list(doctor.examine(path))
    assert asked.read_text().split() == [f"tscc-stream-shard@{index}.service" for index in (1, 2, 3)]
    services = [finding for finding in found if finding.check == "service"]
    for index, finding in enumerate(services, 1):
        unit = f"tscc-stream-shard@{index}.service"
        expect(finding, "warn", f"{unit}: inactive (dead)", f"systemctl start {unit}")
    assert len(services) == 3
    assert [finding.todo for finding in found if finding.check == "config"] == ["look at each of them: --shard 1 to 3"]
    of_a_daemon = {"daemon", "lock", "journal", "state_dir"}
    assert [one.check for one in found if one.check in of_a_daemon or one.check.startswith("port ")] == []


def test_a_shard_on_a_machine_of_its_own_has_the_unit_of_a_site(tmp_path: Path) -> None:
    made = site(write_settings(tmp_path, shard={"index": 2, "count": 3}))
    assert (made.unit, list(made.shards)) == ("tscc-stream@site.service", [])


# ---- the state folder


def test_damage_in_the_journal(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    journal = JournalFile(folder / "journal.sqlite")
    journal.close()
    assert doctor_state.journal(state(folder)).state == "ok"
    with (folder / "journal.sqlite").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * 8192)
    finding = doctor_state.journal(state(folder))
    assert finding.state == "fail", finding
    assert "journal" in finding.todo
    (folder / "journal.sqlite").write_bytes(b"no journal at all" * 1000)
    assert doctor_state.journal(state(folder)).state == "fail"
    with closing(sqlite3.connect(folder / "other.sqlite")) as other:
        other.execute("CREATE TABLE t (x)")
        other.commit()
    (folder / "other.sqlite").replace(folder / "journal.sqlite")
    expect(doctor_state.journal(state(folder)), "fail", "SQLite database of something else", "move journal.sqlite away")


@needs_root
def test_looking_at_a_journal_leaves_nothing_of_ours_beside_it(tmp_path: Path) -> None:
    """After a crash reading makes an index of the log: SQLite gives it to the journal's owner, else root's file would
    lock out the daemon.
    """
    text = "import os, sys; from pathlib import Path; from tscc_stream.edges.sqlite import JournalFile; "
    text += "from tscc_stream.messages import Gap; j = JournalFile(Path(sys.argv[1]) / 'journal.sqlite'); "
    text += "j.append([], [Gap('FDSN:XX_A__H_H_Z', 1, 2, 'server')]); os._exit(0)"
    subprocess.run([sys.executable, "-c", text, str(tmp_path)], check=True, timeout=PATIENCE_S)
    (tmp_path / "journal.sqlite-shm").unlink()
    for path in (tmp_path, *tmp_path.iterdir()):
        os.chown(path, 1234, 1234)
    finding = doctor_state.journal(state(tmp_path))
    assert finding.state == "ok", finding
    assert {path.name: path.stat().st_uid for path in tmp_path.iterdir() if path.stat().st_uid != 1234} == {}


@needs_root
def test_a_disk_that_is_nearly_full(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "-o", "size=8m"):
        folder = tmp_path / "disk" / "state"
        expect(doctor_state.room(state(folder)), "fail", "nearly full: 8 MiB free", "make room")
        expect(doctor_state.file_system(state(folder)), "warn", "tmpfs at", "on a disk")
    free = os.statvfs(tmp_path)
    huge = 4 * free.f_blocks * free.f_frsize / 2**30
    finding = doctor_state.room(state(tmp_path, huge))
    expect(finding, "warn", "may grow to", "retention.max_gib")
    fits = float(finding.todo.split("to ")[1].split(" or")[0])
    assert doctor_state.room(state(tmp_path, fits - 0.1)).state == "ok"


@needs_root
def test_a_disk_that_is_read_only(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "-o", "ro"):
        (finding,) = doctor_state.writable(state(tmp_path / "disk" / "state"))
        expect(finding, "fail", "Read-only file system", "remount,rw")


@needs_root
def test_files_that_a_run_by_root_left_behind(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    JournalFile(folder / "journal.sqlite").close()
    (finding,) = doctor_state.writable(state(folder))
    assert finding.state == "ok"
    os.chown(folder, 1234, 1234)
    (finding,) = doctor_state.writable(state(folder))
    expect(finding, "fail", "belongs to user 1234, but journal.sqlite", "chown -R 1234")


def test_a_file_where_the_state_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    (finding,) = doctor_state.writable(state(tmp_path / "state"))
    expect(finding, "fail", "is no folder", "move it away")


def test_a_lock_that_is_held_and_one_that_is_left_over(tmp_path: Path) -> None:
    expect(doctor_state.lock(state(tmp_path)), "ok", "no daemon has run here", "")
    journal = JournalFile(tmp_path / "journal.sqlite")
    expect(doctor_state.lock(state(tmp_path)), "ok", f"process {os.getpid()} ", "")
    journal.close()
    expect(doctor_state.lock(state(tmp_path)), "ok", f"left over from process {os.getpid()} and holds nobody up", "")


# ---- ports


def test_a_port_that_a_foreign_process_has() -> None:
    text = "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); "
    with subprocess.Popen(
        [sys.executable, "-c", text + "sys.stdin.read()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        number = int(other.stdout.readline())
        finding = doctor_ports.port("metrics.bind", f"127.0.0.1:{number}", "", None)
        expect(finding, "fail", f"taken by process {other.pid} (", "give metrics.bind another port")
        told = doctor_ports.port("metrics.bind", f"127.0.0.1:{number}", f"127.0.0.1:{number}", 77)
        expect(told, "ok", "our own daemon, process 77", "")
        other.communicate("")
    assert doctor_ports.port("metrics.bind", f"127.0.0.1:{number}", "", None).state == "ok"


SECRET = "hunter2hunter2"  # noqa: S105  # made up for the test


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["other.py", "--password", SECRET], " other.py)"),
        (["-W", "ignore", "other.py"], ")"),
        (["-m", "other", f"--token={SECRET}"], " other)"),
        (["-c", f"password = {SECRET!r}; import other"], ")"),
    ],
)
def test_of_the_process_that_has_a_port_the_name_alone_is_told(
    tmp_path: Path, arguments: list[str], shown: str
) -> None:
    text = "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); "
    (tmp_path / "other.py").write_text(text + "sys.stdin.read()\n")
    with subprocess.Popen(
        [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path
    ) as other:
        assert other.stdout is not None
        number = int(other.stdout.readline())
        finding = doctor_ports.port("metrics.bind", f"127.0.0.1:{number}", "", None)
        other.communicate("")
    expect(finding, "fail", f"taken by process {other.pid} (python", "give metrics.bind another port")
    assert finding.found.endswith(f"{Path(sys.executable).name}{shown}")
    assert SECRET not in f"{finding.found}{finding.todo}"


def test_a_process_that_gave_itself_a_title(tmp_path: Path) -> None:
    """As some servers do, which write into it whom they serve."""
    with subprocess.Popen(["sleep: of miner /with", "60"], executable=shutil.which("sleep")) as other:
        while Path(f"/proc/{other.pid}/comm").read_text() != "sleep\n":  # it is given its name a little after its files
            time.sleep(0.002)
        assert doctor_state.program_of(other.pid) == "sleep"
        other.kill()
    assert doctor_state.program_of(other.pid) == "unknown"


def test_every_address_of_the_configuration_is_looked_at(tmp_path: Path) -> None:
    names = [check.name for check in doctor_ports.checks(load(write_settings(tmp_path)), {})]
    assert names == ["port publish.bind", "port publish.replay_bind", "port metrics.bind", "port console.bind"]


def test_an_address_that_this_machine_does_not_have() -> None:
    finding = doctor_ports.port("publish.bind", "tcp://192.0.2.1:5556", "", None)
    expect(finding, "fail", "no address of this machine", "ip addr")
    assert doctor_ports.port("publish.bind", "tcp://*:0", "", None).state == "ok"


# ---- SeedLink


def test_a_server_that_is_well_but_old(mine: str, tmp_path: Path) -> None:
    """Its data were recorded years ago, which is told: of a live server it would be a fault."""
    found = links(write_settings(tmp_path, mine))
    expect(found["seedlink"], "ok", "version 4", "")
    expect(found["streams"], "ok", "4 match of 4: 4 at 100 Hz", "")
    expect(found["band"], "ok", "fit 100 Hz", "")
    expect(found["data"], "warn", "all 4 streams are silent", "recorders")


def test_a_server_that_cannot_be_reached_or_found(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    expect(
        links(write_settings(tmp_path, address))["seedlink"], "fail", "connection refused", "start the SeedLink server"
    )
    finding = links(write_settings(tmp_path, "no-such-host.invalid:18000"))["seedlink"]
    expect(finding, "fail", "no-such-host.invalid", "/etc/resolv.conf")


def test_a_server_of_something_else(tmp_path: Path) -> None:
    with Running("serve", make_archive(tmp_path / "a"), "--bind", "127.0.0.1:0") as server:
        server.wait_for("listening on")
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.settimeout(PATIENCE_S)
        address = f"127.0.0.1:{listener.getsockname()[1]}"

        def talk() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(100)
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=talk)
        thread.start()
        finding = links(write_settings(tmp_path, address))["seedlink"]
        thread.join()
    assert finding.state == "fail"
    assert "no SeedLink server" in finding.todo


def test_no_stream_matches(mine: str, tmp_path: Path) -> None:
    entry = {"server": mine, "streams": ["YY_*:HHZ"]}
    found = links(write_settings(tmp_path, seedlink=[entry]))
    expect(found["streams"], "fail", "none of its 4 streams matches YY_*:HHZ; it has XX.A..HHZ", "correct streams")


def test_a_server_that_has_no_data_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As right after the start of one, or of `serve --start-at now`."""
    monkeypatch.setattr(doctor_links, "LISTEN_SECONDS", 0.3)
    server, address = serving(make_archive(tmp_path), "--start-at", "now", "--speed", "0.01")
    with server:
        found = links(write_settings(tmp_path, address))
    expect(found["streams"], "warn", "the server has no data yet", "try again in a minute")
    assert "fail" not in {finding.state for finding in found.values()}


def test_one_pattern_of_two_matches_nothing(mine: str, tmp_path: Path) -> None:
    entry = {"server": mine, "streams": ["XX_*:HHZ", "ZZ_Q:EHZ"]}
    found = links(write_settings(tmp_path, seedlink=[entry]))
    expect(found["streams"], "warn", "none matches ZZ_Q:EHZ", "correct these patterns")


def test_a_band_above_half_the_rate(mine: str, tmp_path: Path) -> None:
    path = write_settings(tmp_path, mine, condition={"band_hz": [10.0, 60.0]})
    expect(links(path)["band"], "fail", "condition.band_hz: 100 Hz cannot hold the band 10-60 Hz", "lower the band")
    path = write_settings(tmp_path, mine, model=str(package.find("models/rutford")))
    expect(links(path)["band"], "fail", "cannot hold the band 10-120 Hz of model rutford", "a model for this rate")


def test_data_from_the_future(tmp_path: Path) -> None:
    """A recorder whose clock is an hour fast, or this machine's an hour slow."""
    start_ns = time.time_ns() + 3600 * 10**9
    data = make_archive(tmp_path / "a", channels=CHANNELS[:1])
    samples = list(miniseed.encode(from_nslc(CHANNELS[0]), start_ns, 100.0, samples_of(0)[:2000]))
    (data / f"{CHANNELS[0]}.mseed").write_bytes(b"".join(samples))
    server, address = serving(data, "--speed", "max")
    with server:
        finding = links(write_settings(tmp_path, address))["data"]
    expect(finding, "fail", "s in the future", "the clock of this machine is slow")
    assert "XX.A..HHZ" in finding.found


def test_fresh_data_are_well(tmp_path: Path) -> None:
    data = tmp_path / "a"
    data.mkdir()
    start_ns = time.time_ns() - 20 * 10**9
    records = miniseed.encode(from_nslc(CHANNELS[0]), start_ns, 100.0, samples_of(0)[:2000])
    (data / "a.mseed").write_bytes(b"".join(records))
    server, address = serving(data, "--speed", "max")
    with server:
        assert links(write_settings(tmp_path, address))["data"].state == "ok"


@needs_openssl
def test_a_wrong_password_and_a_certificate_of_nobody(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("wrong")
    archive = make_archive(tmp_path / "a", channels=CHANNELS[:1])
    with FaultyProcess("auth", "tls", archive=archive) as servers:
        entry = {"server": servers.addresses["auth"], "streams": ["XX_*"], "user": "mine", "password_file": str(secret)}
        finding = links(write_settings(tmp_path, seedlink=[entry]))["seedlink"]
        expect(finding, "fail", "does not let the user in", "user and password_file")
        assert "wrong" not in finding.found
        secret.write_text("open")
        assert links(write_settings(tmp_path, seedlink=[entry]))["seedlink"].state == "ok"
        del entry["user"], entry["password_file"]
        assert links(write_settings(tmp_path, seedlink=[entry]))["seedlink"].state == "fail"
        entry = {"server": servers.addresses["tls"], "streams": ["XX_*"], "tls": True}
        finding = links(write_settings(tmp_path, seedlink=[entry]))["seedlink"]
        expect(finding, "fail", "certificate", "tls_ca_file")
        del entry["tls"]
        assert links(write_settings(tmp_path, seedlink=[entry]))["seedlink"].state == "fail"


def test_a_server_of_version_3(tmp_path: Path) -> None:
    with FaultyProcess("v3_only", archive=make_archive(tmp_path / "a", channels=CHANNELS[:2])) as server:
        found = links(write_settings(tmp_path, server.addresses["v3_only"]))
    expect(found["seedlink"], "ok", "version 3", "")
    expect(found["streams"], "ok", "2 match: 2 at 100 Hz", "")


def test_what_a_server_holds_is_understood_in_both_versions(mine: str, tmp_path: Path) -> None:
    entry = load(write_settings(tmp_path, mine)).seedlink[0]
    held = []
    for newest in (3, 4):
        answer = converse(Dialer(entry, lambda: None), mine, Info("STREAMS", newest=newest), 5.0)
        assert answer is not None
        assert answer.protocol == newest
        held.append(held_streams(answer))
    assert held[0].keys() == held[1].keys() == {from_nslc(nslc) for nslc in CHANNELS}
    for sid, end_ns in held[1].items():
        assert end_ns == START_NS + (SECONDS * 100 - 1) * 10**7
        assert abs((held[0][sid] or 0) - end_ns) < 10**9  # version 3 says whole seconds


@pytest.mark.parametrize(
    "document",
    [b"", b"{", b"[]", b'{"station": 3}', b'{"station": [1, {"id": "A_B", "stream": [{}, 0]}]}', b"\xff"],
)
def test_an_answer_that_is_none_names_no_stream(document: bytes) -> None:
    assert held_streams(Answer(4, "x", "y", document)) == {}
    assert held_streams(Answer(3, "x", "y", document)) == {}


def test_version_3_as_others_write_it() -> None:
    text = b"""<seedlink software="x"><station name="WLF" network="GE" begin_seq="0"><stream location="  "
        seedname="BHZ" type="D" begin_time="2026-01-01 00:00:00" end_time="2026-13-01 00:00:00"/><stream location="00"
        seedname="HHZ" end_time="2026/11/27 05:00:01.5000"/></station></seedlink>"""
    held = held_streams(Answer(3, "x", "y", text))
    assert held == {"FDSN:GE_WLF__B_H_Z": None, "FDSN:GE_WLF_00_H_H_Z": 1_795_755_601_500_000_000}


# ---- all at once


@needs_root
@needs_openssl
def test_ten_faults_at_once_are_found_by_the_program(mine: str, tmp_path: Path) -> None:
    """Each by a line of its own that says what to do; none hides another."""
    open_to_everybody(tmp_path)
    model = tmp_path / "model"
    shutil.copytree(package.find("models/demo"), model)
    with (model / "weights.pt").open("ab") as file:
        file.write(b"!")
    secret = tmp_path / "password"
    secret.write_text("wrong")
    secret.chmod(0o644)
    future = tmp_path / "future"
    future.mkdir()
    records = miniseed.encode(from_nslc(CHANNELS[0]), time.time_ns() + 3600 * 10**9, 100.0, samples_of(0)[:2000])
    (future / "a.mseed").write_bytes(b"".join(records))
    ahead, ahead_at = serving(future, "--speed", "max")
    with (
        mounted(tmp_path / "disk", "-o", "size=8m"),
        ahead,
        FaultyProcess("auth", "tls", archive=future) as faulty,
        socket.create_server(("127.0.0.1", 0)) as taken,
        socket.create_server(("127.0.0.1", 0)) as closed,
    ):
        closed_at = f"127.0.0.1:{closed.getsockname()[1]}"
        closed.close()
        JournalFile(tmp_path / "disk" / "state" / "journal.sqlite").close()
        with (tmp_path / "disk" / "state" / "journal.sqlite").open("r+b") as file:
            file.seek(4096)
            file.write(b"\xa5" * 8192)
        entries = [
            {"server": mine, "streams": ["XX_*:HHZ"]},
            {"server": ahead_at, "streams": ["XX_*:HHZ"]},
            {"server": mine.replace("127.0.0.1", "localhost"), "streams": ["QQ_*"]},
            {"server": faulty.addresses["auth"], "streams": ["XX_*"], "user": "mine", "password_file": str(secret)},
            {"server": faulty.addresses["tls"], "streams": ["XX_*"], "tls": True},
            {"server": closed_at, "streams": ["XX_*"]},
        ]
        path = write_settings(
            tmp_path, seedlink=entries, model=str(model), state_dir=str(tmp_path / "disk" / "state"),
            metrics={"bind": f"127.0.0.1:{taken.getsockname()[1]}"}, condition={"band_hz": [10.0, 60.0]},
            console={"bind": "127.0.0.1:0"},
        )  # fmt: skip
        done = finished("doctor", "--config", path)
    lines = done.stdout.splitlines()
    failed = [line for line in lines if line.startswith("FAIL")]
    assert (done.returncode, done.stderr) == (1, "")
    for planted in (
        "disk: nearly full",
        "journal: journal ",
        "port metrics.bind: 127.0.0.1:",
        "model: model package",
        "file seedlink[3].password_file: ",
        f"seedlink {faulty.addresses['auth']}: the server does not let the user in",
        f"seedlink {faulty.addresses['tls']}: no TLS with",
        f"seedlink {closed_at}: cannot connect",
        f"streams {mine.replace('127.0.0.1', 'localhost')}: none of its 4 streams matches QQ_*",
        f"band {mine}: condition.band_hz: 100 Hz cannot hold",
        f"data age {ahead_at}: data of XX.A..HHZ are",
    ):
        (line,) = [line for line in failed if line.removeprefix("FAIL  ").startswith(planted)]
        assert " -> " in line
    assert lines[-1].startswith("12 fail, ")  # the band does not fit the server ahead either


# ---- a running daemon


def test_a_daemon_that_is_gone_is_missed(tmp_path: Path) -> None:
    path = write_settings(tmp_path)
    expect(doctor_site.daemon(site(path)), "ok", "has not run with", "")
    journal = JournalFile(tmp_path / "state" / "journal.sqlite")
    expect(doctor_site.daemon(site(path)), "ok", f"process {os.getpid()} runs", "")
    journal.close()
    expect(doctor_site.daemon(site(path)), "warn", "does not run; it wrote to ", "systemctl start tscc-stream@site")
    for file in (tmp_path / "state").iterdir():
        os.utime(file, (0, 0))
    expect(doctor_site.daemon(site(path)), "ok", "does not run; it wrote to ", "")


def test_a_site_that_runs_is_well_and_is_told_from_strangers(mine: str, tmp_path: Path) -> None:
    with socket.socket() as one, socket.socket() as two, socket.socket() as three:
        for link in (one, two, three):
            link.bind(("127.0.0.1", 0))
        ports = [link.getsockname()[1] for link in (one, two, three)]
    publish = {"bind": f"tcp://127.0.0.1:{ports[0]}", "replay_bind": f"tcp://127.0.0.1:{ports[1]}"}
    over = {"publish": publish, "metrics": {"bind": f"127.0.0.1:{ports[2]}"}, "console": {"bind": "127.0.0.1:0"}}
    path = write_settings(tmp_path, mine, **over, retention={"max_gib": 0.01})
    with Running("run", "--config", path) as running:
        running.wait_for("ready: ")
        done = finished("doctor", "--config", path, "--json")
        checks = json.loads(done.stdout)["checks"]
        assert [check for check in checks if check["state"] == "fail"] == []
        assert done.returncode == 0
        found = {check["check"]: check["found"] for check in checks}
        assert f"held by our own daemon, process {running.pid}" in found["port metrics.bind"]
        assert f"process {running.pid} (" in found["lock"]
        assert f"process {running.pid}: ok, " in found["daemon"]
        assert f"process {running.pid}" in found["port publish.bind"]
        assert running.stop() == 0
