"""The state folder's files about models: whole or not there, checked, and one sentence for what is wrong with them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_site import Here, settings, write_settings

from tscc_stream import activation, config, names, package, serving
from tscc_stream.activation import ActivationError, Choice
from tscc_stream.config import PublishConfig
from tscc_stream.config_http import MetricsConfig
from tscc_stream.edges.people import FILE as PEOPLE
from tscc_stream.edges.people import PeopleFile
from tscc_stream.edges.sqlite import JournalFile
from tscc_stream.health import Health
from tscc_stream.learn.export import annotate
from tscc_stream.package import Label, PackageError
from tscc_stream.serving import ModelKeeper, NewLive, NewShadow, Told

DEMO = package.find("models/demo")
A, B, C = ("a" * 12, "b" * 12, "c" * 12)


pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "other"
    shutil.copytree(DEMO, folder)
    return annotate(folder, metrics={"other": 1}).folder


def _tampered(folder: Path) -> None:
    with (folder / "weights.pt").open("ab") as file:
        file.write(b"\0")


def test_activations_are_taken_back_one_after_the_other(state: Path) -> None:
    assert activation.chosen(state) == Choice()
    for name in (A, B, B, C):
        activation.activate(state, name)
    assert activation.chosen(state) == Choice(C, (None, A, B))
    assert activation.live_folder(state, DEMO) == state / "models" / C
    assert [activation.rollback(state).active for _ in range(3)] == [B, A, None]
    assert activation.live_folder(state, DEMO) == DEMO
    with pytest.raises(ActivationError, match="no model was active before this one"):
        activation.rollback(state)
    for _ in range(activation.MOST_ROLLBACKS):
        activation.activate(state, A)
        activation.activate(state, B)
    assert len(activation.chosen(state).before) == activation.MOST_ROLLBACKS


def test_a_refusal_is_taken_back_unless_somebody_chose_anew(state: Path) -> None:
    refused, running = state / "models" / B, state / "models" / A
    activation.activate(state, A)
    activation.activate(state, B)
    activation.take_back(state, refused, running)
    assert activation.chosen(state) == Choice(A, (None,))
    activation.activate(state, C)
    activation.take_back(state, refused, running)
    assert activation.chosen(state).active == C
    activation.take_back(state, state / "models" / C, DEMO)
    assert activation.chosen(state).active is None
    activation.take_back(state, refused, DEMO)
    assert activation.chosen(state).active is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not what `model activate` writes"),
        ("[]", "expected an object"),
        ('{"active": "../../etc"}', "expected the first 12 digits"),
        ('{"active": 7}', "expected the first 12 digits"),
        ('{"before": 7}', "before is 7, expected a list"),
        ('{"before": ["x"]}', "expected the first 12 digits"),
    ],
)
def test_files_that_somebody_else_wrote(state: Path, text: str, said: str) -> None:
    (state / activation.ACTIVE_FILE).write_text(text)
    with pytest.raises(ActivationError, match=said) as refusal:
        activation.chosen(state)
    assert str(state) in str(refusal.value)


def test_what_cannot_be_read_or_written_is_said(state: Path) -> None:
    (state / activation.ACTIVE_FILE).mkdir()
    with pytest.raises(ActivationError, match="cannot be read: Is a directory"):
        activation.chosen(state)
    with pytest.raises(ActivationError, match="cannot be written"):
        activation.set_shadow(state / "nothing", None)
    (state / "models").write_text("in the way")
    with pytest.raises(ActivationError, match="cannot be copied there"):
        activation.install(DEMO, state)


def test_an_installed_package_is_whole_and_its_labels_follow(state: Path, source: Path) -> None:
    made = activation.install(source, state)
    assert made.folder == state / "models" / made.sha256[:12]
    assert made.sha256 == package.load(source).sha256
    labels = {0: Label(name="drill")}
    package.write_labels(source, labels)
    assert activation.install(source, state).labels == labels
    package.write_labels(made.folder, {1: Label(name="blast")})
    assert activation.install(made.folder, state).labels == {1: Label(name="blast")}
    _tampered(made.folder)
    assert activation.install(source, state).labels == labels
    assert [path.name for path in (state / "models").iterdir()] == [made.sha256[:12]]
    broken = state.parent / "broken"
    shutil.copytree(source, broken)
    _tampered(broken)
    with pytest.raises(PackageError, match=r"weights\.pt was changed"):
        activation.install(broken, state)
    assert activation.install(source, state).sha256 == made.sha256


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_what_root_writes_belongs_to_the_daemon_whatever_the_umask(state: Path, source: Path, umask: int) -> None:
    os.chown(state, 4242, 4243)
    before = os.umask(umask)
    try:
        name = activation.install(source, state).sha256[:12]
        for written in state.rglob("*"):  # as an earlier version left them
            os.chown(written, 0, 0)
            written.chmod(0o700 if written.is_dir() else 0o600)
        assert activation.install(source, state).folder == state / "models" / name
        activation.activate(state, name)
        activation.set_shadow(state, name)
    finally:
        os.umask(before)
    found = {path: path.stat() for path in state.rglob("*")}
    assert {path.name for path in found} >= {"active-model", "shadow-model", name, "labels.json", "encoder.ts"}
    assert {(one.st_uid, one.st_gid) for one in found.values()} == {(4242, 4243)}
    wanted = {path: 0o055 if path.is_dir() else 0o044 for path in found}
    assert [path for path, one in found.items() if one.st_mode & wanted[path] != wanted[path]] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_root_is_not_given_away_by_what_the_daemons_user_puts_in_its_place(
    state: Path, source: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("root's")
    secret.chmod(0o600)
    os.chown(state, 4242, 4243)
    made = activation.install(source, state).folder
    (made / "labels.new").symlink_to(secret)
    (made / "second").hardlink_to(secret)
    (made / "third").symlink_to(secret)
    activation.install(source, state)
    assert (secret.stat().st_uid, stat.S_IMODE(secret.stat().st_mode), secret.read_text()) == (0, 0o600, "root's")
    assert (made / "second").exists(), "the package was whole, so it was not written anew"


def test_the_shadow_is_the_files_else_the_configurations(state: Path) -> None:
    assert activation.shadow_folder(state, None) is None
    assert activation.shadow_folder(state, DEMO) == DEMO
    activation.set_shadow(state, A)
    assert activation.shadow_folder(state, DEMO) == state / "models" / A
    activation.set_shadow(state, None)
    assert activation.shadow_folder(state, DEMO) is None


def test_a_process_id_is_believed_only_where_it_holds_the_lock(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert activation.endpoints(state) == {}
    (state / activation.ENDPOINTS_FILE).write_text(json.dumps({"pid": os.getpid(), "publish": "x"}))
    assert activation.endpoints(state) == {}
    with JournalFile(state / "journal.sqlite"):
        assert activation.endpoints(state)["publish"] == "x"
    assert activation.endpoints(state) == {}
    (state / activation.ENDPOINTS_FILE).write_text(json.dumps({"pid": 2**22 + 1}))
    assert activation.endpoints(state) == {}

    def forbidden(_self: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", forbidden)
    with pytest.raises(ActivationError, match="run this as the daemon's user or as root"):
        activation.endpoints(state)


def _keeper(state: Path, shadow: Path | None = None) -> ModelKeeper:
    return ModelKeeper(config.parse(json.dumps(settings(state.parent))), state, DEMO, shadow, Health())


def _orders(keeper: ModelKeeper, *, asks: int = 1) -> list[Any]:
    """What it orders when it is asked so often."""
    for _ in range(asks):
        keeper.ask()
    keeper.stop()
    keeper.run()
    return [keeper.orders.get_nowait() for _ in range(keeper.orders.qsize())]


def test_nothing_changed_is_told_and_changed_names_are_taken_over(state: Path, source: Path) -> None:
    keeper = _keeper(state)
    assert keeper.start().package.folder == DEMO
    [told] = _orders(keeper)
    assert (told.data["role"], told.data["state"]) == ("live", "unchanged")
    made = activation.install(source, state)
    activation.activate(state, made.sha256[:12])
    [order] = _orders(keeper)
    assert isinstance(order, NewLive)
    package.write_labels(made.folder, {0: Label(name="renamed")})
    [order] = _orders(keeper)
    assert order.served.package.name_of(0) == "renamed"


def test_a_candidate_comes_goes_and_may_be_refused(state: Path, source: Path) -> None:
    keeper = _keeper(state, shadow=source)
    keeper.start()
    [order, told] = _orders(keeper)
    assert isinstance(order, NewShadow)
    assert isinstance(told, Told)
    activation.set_shadow(state, None)
    [order, told] = _orders(keeper)
    assert order == NewShadow(None)
    assert told.data["state"] == "unchanged"
    activation.set_shadow(state, A)
    refused = _orders(keeper)[-1]
    assert (refused.data["role"], refused.data["state"]) == ("shadow", "refused")
    assert "sha256" not in refused.data


def test_a_candidate_that_failed_is_told_and_may_be_set_again(state: Path, source: Path) -> None:
    keeper = _keeper(state, shadow=source)
    keeper.start()
    first, _ = _orders(keeper)
    keeper.shadow_failed(first.served.package, "did not end within 60 s")
    failed, again = _orders(keeper)
    assert failed.data == {
        "role": "shadow",
        "state": "failed",
        "reason": "did not end within 60 s",
        **first.served.told(),
    }
    assert isinstance(again, NewShadow)


def test_a_candidate_that_failed_after_it_was_replaced_changes_nothing(state: Path, source: Path) -> None:
    keeper = _keeper(state, shadow=source)
    keeper.start()
    first, _ = _orders(keeper)
    activation.set_shadow(state, None)
    assert isinstance(_orders(keeper)[0], NewShadow)
    keeper.shadow_failed(first.served.package, "late")
    assert [order.data["state"] for order in _orders(keeper)] == ["unchanged"]


def test_a_refused_choice_that_cannot_be_taken_back_is_logged(
    state: Path, source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = _keeper(state)
    keeper.start()
    activation.activate(state, A)

    def full(*_: object) -> None:
        raise ActivationError("active-model: cannot be written: No space left on device")

    monkeypatch.setattr(serving.activation, "take_back", full)
    [told] = _orders(keeper)
    assert told.data["state"] == "refused"
    assert "a restart would try the refused model again" in caplog.text


def test_the_commands_say_what_is_wrong_in_one_sentence(tmp_path: Path, source: Path, here: Here) -> None:
    path = write_settings(tmp_path)
    done = here("model", "activate", source, "--config", path)
    assert done.returncode == 2
    assert "no such folder; the daemon makes it" in done.stderr
    state = tmp_path / "state"
    state.mkdir()
    done = here("model", "shadow", "--report", "--config", path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no daemon runs there" in done.stderr
    broken = tmp_path / "broken"
    shutil.copytree(source, broken)
    _tampered(broken)
    done = here("model", "activate", broken, "--state-dir", state)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "weights.pt was changed" in done.stderr
    assert list(state.iterdir()) == []
    done = here("model", "activate", source, "--state-dir", state, "--no-signal")
    assert "from the next start (the daemon was not told)" in done.stdout
    with socket.create_server(("127.0.0.1", 0)) as nobody, JournalFile(state / "journal.sqlite"):
        port = nobody.getsockname()[1]
        (state / "endpoints.json").write_text(json.dumps({"pid": os.getpid(), "metrics": f"127.0.0.1:{port + 1}"}))
        nobody.close()
        done = here("model", "shadow", "--report", "--state-dir", state)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "/metrics: Connection refused" in done.stderr


def test_check_config_looks_at_the_candidate(tmp_path: Path, source: Path, here: Here) -> None:
    assert here("check-config", write_settings(tmp_path, shadow=str(source))).returncode == 0
    done = here("check-config", write_settings(tmp_path, shadow="models/rutford"))
    assert done.returncode == 2
    assert "shadow: models/rutford: its windows are not those of" in done.stderr
    done = here("check-config", write_settings(tmp_path, shadow="models/nothing"))
    assert done.returncode == 2
    assert "shadow: model models/nothing: no such folder" in done.stderr


def test_one_name_that_cannot_be_read_takes_no_other_away_and_a_backup_is_read_anew(state: Path) -> None:
    demo, people = package.load(DEMO).sha256, PeopleFile(state / PEOPLE)
    names.give(people, demo, 1, Label(name="blast"), "eve", 1)
    people.say(names.KIND, f"{demo}/2", {"name": 7}, "eve", 2)
    people.close()
    keeper = _keeper(state)
    assert keeper.start().package.name_of(1) == "blast"
    assert _orders(keeper, asks=0) == []
    backup = PeopleFile(state / "backup")
    names.give(backup, demo, 1, Label(name="crusher"), "eve", 1)
    backup.close()
    for rest in (f"{PEOPLE}-wal", f"{PEOPLE}-shm"):
        (state / rest).unlink(missing_ok=True)
    (state / "backup").replace(state / PEOPLE)
    [order] = _orders(keeper, asks=0)
    assert order.given == {1: Label(name="crusher")}


def test_addresses_are_those_that_the_daemon_said_and_can_be_asked_here() -> None:
    publish, metrics = PublishConfig(bind="tcp://0.0.0.0:5556"), MetricsConfig()
    said = {"replay": "tcp://0.0.0.0:7", "pid": 3}
    assert activation.addresses(said, publish, metrics) == {
        "publish": "tcp://127.0.0.1:5556",
        "replay": "tcp://127.0.0.1:7",
        "metrics": metrics.bind,
    }
