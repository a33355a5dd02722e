"""The alert process beside a journal and a bus: restarts, dead and slow actions, a full disk, answers, rehearsals."""

from __future__ import annotations

import json
import resource
import signal
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from in_time import PATIENCE_S
from made_alerts import SID, Receivers, Site, alerting, until
from made_site import Running, finished, write_settings

from tscc_stream import names, package
from tscc_stream.config import CurveConfig
from tscc_stream.edges.alert_journal import FILE, AlertJournal, NewAlert
from tscc_stream.edges.people import FILE as PEOPLE
from tscc_stream.edges.people import PeopleFile
from tscc_stream.messages import Message
from tscc_stream.package import Label

RULE = {"name": "any", "cooldown_seconds": 0.0}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path / "state") as made:
        yield made


@pytest.fixture
def receivers(tmp_path: Path) -> Iterator[Receivers]:
    with Receivers(tmp_path) as both:
        yield both


def configured(tmp_path: Path, **alerts: Any) -> Path:
    return write_settings(tmp_path, alerts={"rules": [RULE], "watches": [], **alerts})


def journal_of(tmp_path: Path) -> AlertJournal:
    return AlertJournal(tmp_path / "state" / FILE, read_only=True)


def _until_kept(tmp_path: Path) -> None:
    """Whoever is killed before it has kept that something was delivered delivers it again."""
    with journal_of(tmp_path) as journal:
        until(lambda: not journal.waiting(), "that what was delivered is kept")


def listed(path: Path, *options: object) -> list[dict[str, Any]]:
    done = finished("alert", "list", "--config", path, "--jsonl", *options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def titles(receivers: Receivers, by: str = "webhook") -> list[str]:
    return [one["document"]["cause"]["uids"][0] for one in receivers.got(by)]


def test_what_comes_while_it_is_down_and_what_is_too_old(tmp_path: Path, site: Site, receivers: Receivers) -> None:
    path = configured(tmp_path, stale_after_seconds=600.0, **receivers.actions())
    site.event("before the first start")
    with alerting(path) as first:
        site.event("one")
        until(lambda: len(receivers.got("mail")) == len(receivers.got("webhook")) == 1, "the first alert")
        second = finished("alert", "run", "--config", path)
        assert (second.returncode, "another `tscc-stream alert run` uses it" in second.stderr) == (1, True)
        _until_kept(tmp_path)
        first.stop(signal.SIGKILL)
    site.event("a minute ago", age_s=60.0)
    for number in range(3):
        site.event(f"old {number}", age_s=3600.0)
    with alerting(path) as again:
        until(lambda: len(receivers.got("webhook")) == 3, "what came meanwhile, and a digest")
        site.event("now")
        until(lambda: len(receivers.got("webhook")) == 4, "the next alert")
        assert again.stop() == 0
    assert titles(receivers) == ["one", "a minute ago", "old 2", "now"]
    documents = [one["document"] for one in receivers.got("webhook")]
    assert [one["kind"] for one in documents] == ["event", "event", "digest", "event"]
    assert documents[2]["cause"]["count"] == 3
    assert "Onset:" in documents[0]["text"]
    assert "What to do" not in documents[0]["text"]
    withheld = finished("alert", "list", "--config", path, "--withheld")
    assert withheld.stdout.count("late") == 4, withheld.stdout
    assert "withheld in all: late 3" in withheld.stdout


def test_a_network_event_after_a_restart_still_has_its_amplitude(
    tmp_path: Path, site: Site, receivers: Receivers
) -> None:
    """Else a blast would not be known to be small. The detection is looked at before the restart, the event after."""
    path = configured(tmp_path, suppress_below_amplitude=100.0, **receivers.actions())
    with alerting(path) as running:
        site.event("one")
        until(lambda: len(receivers.got("mail")) == 1, "the first alert")
        blast = ("alert", "suppress", "--config", path, "--for", "30m", "--reason", "blast")
        assert finished(*blast).returncode == 0
        site.detection("two")
        site.event("known", cluster="unknown")
        until(lambda: len(receivers.got("mail")) == 2, "what comes after the detection")
        _until_kept(tmp_path)
        assert running.stop(signal.SIGKILL) == -signal.SIGKILL
    site.network("two")
    with alerting(path) as running:
        hidden = ("alert", "list", "--config", path, "--withheld")
        until(lambda: "suppressed 1" in finished(*hidden).stdout, "the hidden event")
        assert running.stop() == 0
    assert titles(receivers) == ["one", "known"]


def test_a_dead_action_is_given_up_and_the_others_tell(tmp_path: Path, site: Site, receivers: Receivers) -> None:
    commands = {"siren": {"argv": ["/bin/sh", "-c", "echo broken >&2; exit 1"]}}
    path = configured(tmp_path, commands=commands, give_up_after_seconds=2.0, **receivers.actions())
    with alerting(path) as running:
        site.event("one")
        running.wait_for("siren: alert .* could not be delivered, given up after")
        until(lambda: len(receivers.got("mail")) == len(receivers.got("webhook")) == 2, "what failed")
        assert running.stop() == 0
    subjects = [one["subject"] for one in receivers.got("mail")]
    assert subjects[0].startswith("[test] WARNING: any: microseismic, 1 channels")
    assert subjects[1] == (
        "[test] CRITICAL: action failed: siren could not deliver 1 alerts: /bin/sh: ended with 1: broken"
    )
    first, told = listed(path)
    assert {one["action"]: one["state"] for one in first["deliveries"]} == {
        "siren": "failed",
        "control room": "delivered",
        "boss": "delivered",
    }
    siren = next(one for one in first["deliveries"] if one["action"] == "siren")
    assert len(siren["attempts"]) >= 2
    assert {one["outcome"] for one in siren["attempts"]} == {"/bin/sh: ended with 1: broken"}
    assert sorted(one["action"] for one in told["deliveries"]) == ["boss", "control room"]


def test_a_slow_action_holds_up_no_other(tmp_path: Path, site: Site, receivers: Receivers) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        actions = receivers.actions()
        slow = {"url": f"http://127.0.0.1:{mute.getsockname()[1]}/", "timeout_seconds": 300.0}
        actions["webhooks"]["mute"] = slow
        with alerting(configured(tmp_path, **actions)) as running:
            for number in range(3):
                site.event(f"{number}")
                until(lambda number=number: len(receivers.got("mail")) == number + 1, "the mail")
            with journal_of(tmp_path) as journal:
                until(lambda: journal.waiting() == {"mute": 3}, "that the others' deliveries are written down")
            assert running.stop() == 0
            assert "still at work: mute" in running.text
            with journal_of(tmp_path) as journal:
                assert journal.waiting() == {"mute": 3}, "they wait for the next start"


def test_an_action_that_the_configuration_has_no_longer(tmp_path: Path, site: Site, receivers: Receivers) -> None:
    gone = {"gone": {"url": "http://127.0.0.1:9/"}}
    with alerting(configured(tmp_path, webhooks=gone)) as running:
        site.event("one")
        running.wait_for("gone: alert .* attempt 1 failed: .*refused")
        assert running.stop() == 0
    with alerting(configured(tmp_path, **receivers.actions())) as running:
        until(lambda: len(receivers.got("mail")) == 1, "what could not be delivered")
        assert running.stop() == 0
    assert "gone could not deliver 1 alerts: the configuration has this action no longer" in str(receivers.got("mail"))


def test_a_full_disk_holds_back_no_alert(tmp_path: Path, site: Site, receivers: Receivers) -> None:
    path = configured(tmp_path, **receivers.actions())
    with alerting(path) as running:
        before = resource.prlimit(running.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (16, before[1]))
        site.event("one")
        running.wait_for("cannot write: .*; alerts go out all the same")
        until(lambda: len(receivers.got("mail")) == len(receivers.got("webhook")) == 1, "the alert")
        assert listed(path) == []
        resource.prlimit(running.pid, resource.RLIMIT_FSIZE, before)
        until(lambda: len(listed(path)) == 1, "the alert in the journal")
        site.event("two")
        until(lambda: len(receivers.got("mail")) == len(receivers.got("webhook")) == 2, "the next alert")
        assert running.stop() == 0
    assert titles(receivers) == ["one", "two"]
    first, second = listed(path)
    assert sorted(first["delivered_without_journal"]) == ["boss", "control room"]
    assert (first["deliveries"], len(second["deliveries"])) == ([], 2)


def test_answers_and_announced_blasts(tmp_path: Path, site: Site, receivers: Receivers) -> None:
    rule = {**RULE, "repeat_seconds": 1.0, "actions": ["control room"], "escalate_to": ["boss"]}
    alerts = {"rules": [rule], "suppress_below_amplitude": 100.0, **receivers.actions()}
    path = configured(tmp_path, **alerts)
    with alerting(path) as running:
        site.event("one")
        until(lambda: receivers.got("mail"), "the repetition, which goes further")
        (alert,) = listed(path)
        assert receivers.got("mail")[0]["key"] == f"{alert['id']}.1"
        assert "(repetition 1, not acknowledged)" in receivers.got("mail")[0]["subject"]
        wrong = finished("alert", "ack", "zz", "--config", path)
        assert (wrong.returncode, "no alert has such an id" in wrong.stderr) == (2, True)
        done = finished("alert", "ack", alert["id"][:6], "--config", path, "--note", "cleared", "--who", "eve")
        assert done.stdout == f"alert {alert['id']}: acknowledged\n"
        assert listed(path)[0]["acknowledged"]["note"] == "cleared"
        said = finished("alert", "suppress", "--config", path, "--for", "30m", "--reason", "blast", "--who", "eve")
        assert said.returncode == 0, said.stderr
        assert "known events below 100 counts are not told" in said.stdout
        _until_announced(site, path)
        rounds = len(listed(path)[0]["deliveries"])
        site.event("large", amplitude=100.0)
        site.event("new", cluster="unknown")
        until(lambda: {"large", "new"} <= set(titles(receivers)), "what no blast hides")
        assert finished("alert", "suppress", "--config", path, "--end").stdout == "1 announced windows ended\n"
        until(lambda: _small_is_told(site, receivers), "an alert after the blast")
        assert running.stop() == 0
    assert len(listed(path)[0]["deliveries"]) == rounds, "no repetition after the answer"
    assert "acknowledged by eve: cleared" in finished("alert", "list", "--config", path).stdout


def _until_announced(site: Site, path: Path) -> None:
    """Small events, until one of them was hidden: the announcement is looked for once a second."""
    count = 0

    def hidden() -> bool:
        nonlocal count
        count += 1
        site.event(f"small {count}")
        return "blast" in finished("alert", "list", "--config", path, "--withheld").stdout

    until(hidden, "a hidden event")


def _small_is_told(site: Site, receivers: Receivers, counter: list[int] = []) -> bool:  # noqa: B006  # it counts calls
    counter.append(1)
    site.event(f"after {len(counter)}")
    return any(title.startswith("after") for title in titles(receivers))


def test_a_rehearsal_with_and_without_the_process(tmp_path: Path, site: Site, receivers: Receivers) -> None:
    rule = {**RULE, "actions": ["boss"], "advice": "clear the section"}
    path = configured(tmp_path, rules=[rule], **receivers.actions())
    alone = finished("alert", "test", "--config", path)
    assert alone.returncode == 0, alone.stderr
    assert alone.stdout.splitlines() == ["control room: delivered: HTTP 200 OK", "boss: delivered: taken for 1"]
    with alerting(path) as running:
        ruled = finished("alert", "test", "--config", path, "--rule", "any")
        assert ruled.stdout == "boss: delivered: taken for 1\n"
        assert running.stop() == 0
    subjects = [one["subject"] for one in receivers.got("mail")]
    assert [one.count("REHEARSAL, nothing has happened") for one in subjects] == [1, 1]
    assert receivers.got("webhook")[0]["document"]["rehearsal"] is True
    assert "What to do: clear the section" in receivers.got("mail")[1]["text"]
    receivers.stop()
    dead = finished("alert", "test", "--config", path, "--rule", "any", "--wait", "1s")
    assert (dead.returncode, "boss: waiting: " in dead.stdout and "refused" in dead.stdout) == (1, True)
    wrong = finished("alert", "test", "--config", path, "--rule", "none")
    assert (wrong.returncode, "no such rule or watch; there are: any" in wrong.stderr) == (1, True)


def test_replay_shows_what_the_rules_would_have_done_and_sends_nothing(
    tmp_path: Path, site: Site, receivers: Receivers
) -> None:
    rule = {**RULE, "clusters": ["microseismic", "unknown"], "cooldown_seconds": 60.0}
    planned = {"reason": "blast", "hours": ["00:00-12:00", "12:00-00:00"]}
    path = configured(
        tmp_path, rules=[rule], suppression=[planned], suppress_below_amplitude=100.0, **receivers.actions()
    )
    for number in range(3):
        site.event(f"{number}", age_s=86_400.0, amplitude=500.0)
    site.event("small", age_s=86_000.0)
    site.event("new", age_s=86_000.0, cluster="unknown")
    short = finished("alert", "replay", "--config", path, "--since", "2020-01-01")
    assert short.stdout.splitlines()[-1] == "3 alerts; 3 events withheld (--all shows them)", short.stdout
    assert ["any" in line for line in short.stdout.splitlines()] == [True, True, True, False]
    assert "2 more since the last alert" in short.stdout
    whole = finished("alert", "replay", "--config", path, "--since", "0", "--all").stdout
    assert [whole.count(why) for why in ("cooldown", "suppressed")] == [2, 1]
    assert finished("alert", "replay", "--config", path, "--since", "10").stdout.startswith("0 alerts; 0 events")
    assert finished("alert", "replay", "--config", path, "--since", "tomorrow").returncode == 2
    assert receivers.got("mail") == receivers.got("webhook") == []
    assert not (tmp_path / "state" / FILE).exists()


def test_a_secured_bus(tmp_path: Path, receivers: Receivers) -> None:
    for name in ("daemon.key", "alert.key"):
        assert finished("bus-key", "--out", tmp_path / name).returncode == 0
    curve = CurveConfig(secret_key_file=str(tmp_path / "daemon.key"), allowed_keys_file=str(tmp_path / "alert.key.pub"))
    keys = {"server_key": str(tmp_path / "daemon.key.pub"), "secret_key_file": str(tmp_path / "alert.key")}
    path = configured(tmp_path, bus_keys=keys, **receivers.actions())
    with Site(tmp_path / "state", curve) as site, alerting(path) as running:
        site.event("one")
        until(lambda: len(receivers.got("mail")) == 1, "the alert")
        assert running.stop() == 0


def test_a_message_that_cannot_be_read_stops_nothing(tmp_path: Path, site: Site, receivers: Receivers) -> None:
    path = configured(tmp_path, metrics={"bind": "127.0.0.1:0"}, **receivers.actions())
    with alerting(path) as running:
        bodies = (
            b"{}",
            b'{"type": "tscc.network_event.v1", "id": "x", "data": []}',
            b'{"type": "tscc.detection.v1", "id": 3}',
            b'{"type": "tscc.status.v1", "data": 7}',
        )
        for number, body in enumerate(bodies):
            site.say(Message(f"bad {number}", "status", "status.data.", body, number))
        site.event("one")
        until(lambda: len(receivers.got("mail")) == 1, "the alert after them")
        assert running.stop() == 0
        assert "cannot be read" in running.text


def test_a_rule_whose_cluster_is_given_another_name_is_told_of(
    tmp_path: Path, site: Site, receivers: Receivers
) -> None:
    model = package.load(package.find("models/demo"))
    name = model.name_of(1)
    rules = [{"name": "one", "clusters": [name]}, {"name": "in vain from the start", "clusters": ["no such name"]}]
    path = configured(tmp_path, rules=rules, **receivers.actions())
    body = {"type": "tscc.status.v1", "data": {"role": "live", "state": "named"}}
    with alerting(path) as process:
        people = PeopleFile(tmp_path / "state" / PEOPLE)
        names.give(people, model.sha256, 1, Label(name="another"), "anna", 1)
        people.close()
        site.say(Message("m", "status", "status.model.", json.dumps(body).encode(), 0, "", tolerance_ns=0))
        until(lambda: receivers.got("webhook"), "the alert")
        assert process.stop() == 0
    (one,) = [one["document"] for one in receivers.got("webhook")]
    assert (one["rule"], one["severity"], len(one["cause"]["sentences"])) == ("names of clusters", "critical", 1)
    assert f"rule one: no cluster is called {name!r} at present" in one["title"]


def test_a_damaged_journal_of_alerts_is_told_and_a_new_one_begun(
    tmp_path: Path, site: Site, receivers: Receivers
) -> None:
    """Else nobody would be alerted until a person comes and moves the file."""
    path = configured(tmp_path, **receivers.actions())
    with alerting(path) as running:
        site.event("one")
        until(lambda: len(receivers.got("webhook")) == 1, "the first alert")
        assert running.stop() == 0
    (tmp_path / "state" / FILE).write_bytes(b"no database any more" * 500)
    site.event("while it was down")
    with alerting(path) as running:
        until(lambda: len(receivers.got("webhook")) == 2, "that the file was damaged")
        site.event("two")
        until(lambda: len(receivers.got("webhook")) == 3, "the next alert")
        assert running.stop() == 0
    _, told, two = (one["document"] for one in receivers.got("webhook"))
    assert (told["severity"], two["cause"]["uids"]) == ("critical", ["two"])
    assert "alerts.sqlite was damaged (file is not a database; it is kept as alerts.sqlite.damaged-" in str(
        told["cause"]
    )
    assert "events before now are not told again" in told["title"]
    assert len(list((tmp_path / "state").glob(f"{FILE}.damaged-*Z"))) == 1


_FULL_AT_THE_START = (
    "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (16, resource.RLIM_INFINITY)); "
    "from tscc_stream.apps import alert_run; alert_run.MOVE_SECONDS = 1.0"
)


def test_a_full_disk_at_the_start_and_two_damaged_files(tmp_path: Path, site: Site, receivers: Receivers) -> None:
    """It starts, tells, says what is missing, and moves into the file once there is room; nothing comes twice."""
    path = configured(tmp_path, metrics={"bind": "127.0.0.1:0"}, **receivers.actions())
    state = tmp_path / "state"
    (state / FILE).write_bytes(b"no database any more" * 500)
    started = Running("alert", "run", "--config", path, begin=_FULL_AT_THE_START)
    with started as running:
        running.wait_for(
            f"alerts.sqlite: cannot .*: the disk of {state} is full; the one before was damaged .file is not"
        )
        url = running.wait_for(r"metrics on (http://\S+/)metrics")[1]
        running.wait_for("ready: ")
        site.event("one")
        until(
            lambda: len(receivers.got("webhook")) == len(receivers.got("mail")) == 2, "what is missing, and the alert"
        )
        assert said(url, "metrics", "tscc_alert_journal_failing 1.0")
        assert said(url, "healthz", '"journal": "memory"')
        resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        running.wait_for("alerts.sqlite can be written again")
        assert said(url, "metrics", "tscc_alert_journal_failing 0.0")
        site.event("two")
        until(lambda: len(titles_of_events(receivers)) == 2, "the next alert")
        _until_kept(tmp_path)
        assert running.stop(signal.SIGKILL) == -signal.SIGKILL
    journal = state / "journal.sqlite"
    journal.write_bytes(b"no journal" * 4096)
    with alerting(path) as running:
        assert running.stop() == 0
    assert titles_of_events(receivers) == ["one", "two"]
    assert len(receivers.keys("webhook")) == len(set(receivers.keys("webhook"))), "nothing came twice"
    (state / FILE).write_bytes(b"no database any more" * 500)
    with alerting(path) as running:
        running.wait_for("the daemon's journal cannot be read: events before now are not told; messages are taken")
        assert running.stop() == 0


def titles_of_events(receivers: Receivers) -> list[str]:
    return [uids[0] for one in receivers.got("webhook") if (uids := one["document"]["cause"]["uids"])]


def said(url: str, page: str, what: str) -> bool:
    with urllib.request.urlopen(url + page, timeout=PATIENCE_S) as answer:  # noqa: S310  # the process's own
        return what in answer.read().decode()


def bad_messages() -> list[Message]:
    """What no rule can digest: numbers that are none or too large, half letters, no object, missing fields."""
    about = {"id": 1, "name": "microseismic", "membership": [0.1, 0.9], "known": True}
    data = {"onset_ns": 1, "peak_amplitude": 5.0, "quality": [], "cluster": about}
    bad = [
        json.dumps({**data, "peak_amplitude": float("nan")}),
        json.dumps({**data, "peak_amplitude": 7.5}).replace("7.5", "1e999"),
        json.dumps({**data, "onset_ns": 2**70}),
        json.dumps({**data, "cluster": {**about, "name": "\ud800"}}).replace("\\ud800", "\\udc00"),
        json.dumps({**data, "quality": 7}),
        "[" * 50_000,
        "{}",
    ]
    bodies = [f'{{"type":"tscc.detection.v1","id":"bad","subject":"{SID}","data":{one}}}' for one in bad]
    bodies += ["[]", "{}", "no JSON"]
    topic = "detection.1.SM.S001..GHZ."
    return [
        Message(f"bad-{number}", "detection", topic, body.encode(), number, SID, tolerance_ns=0)
        for number, body in enumerate(bodies)
    ]


def test_a_message_that_no_rule_can_digest_is_counted_and_left_out(
    tmp_path: Path, site: Site, receivers: Receivers
) -> None:
    path = configured(
        tmp_path, rules=[{**RULE, "kind": "detection"}], metrics={"bind": "127.0.0.1:0"}, **receivers.actions()
    )
    with alerting(path) as running:
        url = running.wait_for(r"metrics on (http://\S+/metrics)")[1]
        bad = bad_messages()
        site.say(*bad)
        site.detection("good")
        until(lambda: len(receivers.got("webhook")) == 1, "the alert after them")
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:  # noqa: S310  # the process's own
            assert f"tscc_alert_messages_unreadable_total {len(bad)}.0" in answer.read().decode()
        assert running.stop() == 0
    with alerting(path) as running:  # what was said before the start is looked at again for its amplitudes
        site.detection("after a restart")
        until(lambda: len(receivers.got("webhook")) == 2, "the next alert")
        assert running.stop() == 0
    assert titles(receivers) == ["detection-good", "detection-after a restart"]


def test_an_empty_id_answers_nothing(tmp_path: Path) -> None:
    """One alert begins with it, where there is only one."""
    path = configured(tmp_path)
    (tmp_path / "state").mkdir()
    with AlertJournal(tmp_path / "state" / FILE) as journal:
        journal.commit([NewAlert("3fa9c1d20b77", 1, "any", "event", "warning", "x", {}, ())])
    done = finished("alert", "ack", "", "--config", path)
    assert (done.returncode, "expected an alert's id" in done.stderr) == (2, True), done.stderr
