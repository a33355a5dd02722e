"""What people say is kept, the last word counts; a name that is given reaches the bus within seconds."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_time import PATIENCE_S
from made_site import make_archive, serving, write_settings
from test_daemon import daemon, listen, until

from tscc_stream import names, package, verdicts
from tscc_stream.edges.people import FILE, MOST_BYTES, ChangedError, PeopleError, PeopleFile, PeopleThere, Said
from tscc_stream.package import Label

DEMO = package.load(package.find("models/demo"))
SERVICE = 12_345
"""A user of the system that is not root."""
_WORD = st.tuples(st.sampled_from(["name", "verdict"]), st.sampled_from(["a/1", "a/11", "b/1"]), st.integers(0, 9))


@settings(max_examples=25, deadline=None)
@given(st.lists(_WORD, max_size=12))
def test_the_last_word_on_a_subject_counts_and_those_before_it_stay(
    tmp_path_factory: pytest.TempPathFactory, words: list[tuple[str, str, int]]
) -> None:
    file = PeopleFile(tmp_path_factory.mktemp("said") / FILE)
    numbers = [file.say(kind, subject, {"value": value}, "eve", 7) for kind, subject, value in words]
    assert numbers == list(range(1, len(words) + 1))
    for kind in ("name", "verdict"):
        last = {subject: value for said, subject, value in words if said == kind}
        assert {key: said.document["value"] for key, said in file.latest(kind).items()} == last
        assert set(file.latest(kind, "a/")) == {subject for subject in last if subject.startswith("a/")}
        for subject in ("a/1", "b/1"):
            said = file.on(kind, subject)
            assert (None if said is None else said.document["value"]) == last.get(subject)
    assert [(s.kind, s.subject, s.document["value"]) for s in file.after(0)] == words
    assert file.head() == len(words)
    file.close()


def test_two_programs_write_and_read_one_file(tmp_path: Path) -> None:
    one, other = PeopleFile(tmp_path / FILE), PeopleFile(tmp_path / FILE)
    one.say("verdict", "uid", {"name": "blast"}, "ann", 1)
    other.say("verdict", "uid", {"name": "noise"}, "bob", 2)
    for file in (one, other):
        said = file.on("verdict", "uid")
        assert said is not None
        assert (said.who, said.document) == ("bob", {"name": "noise"})
        file.close()


def test_what_it_cannot_take_is_one_sentence(tmp_path: Path) -> None:
    file = PeopleFile(tmp_path / FILE)
    with pytest.raises(PeopleError, match=f"at most {MOST_BYTES} bytes"):
        file.say("name", "a/1", {"notes": "x" * MOST_BYTES}, "eve", 0)
    with pytest.raises(PeopleError, match="too long"):
        file.say("name", "a/1", {}, "e" * 301, 0)
    assert file.head() == 0
    file.close()
    (tmp_path / "text").write_text("no database at all, but long enough to be one" * 40)
    with pytest.raises(PeopleError, match="cannot open: file is not a database"):
        PeopleFile(tmp_path / "text")
    other = sqlite3.connect(tmp_path / "other")
    other.execute("CREATE TABLE t (x)")
    other.commit()
    other.close()
    with pytest.raises(PeopleError, match="is a database of something else"):
        PeopleFile(tmp_path / "other")


def test_to_read_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(PeopleError, match="cannot open: there is no such file"):
        PeopleFile(tmp_path / FILE, read_only=True)
    assert verdicts.read(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []
    writer = PeopleFile(tmp_path / FILE)
    writer.say("name", "a/1", {}, "eve", 0)
    reader = PeopleFile(tmp_path / FILE, read_only=True)
    assert reader.head() == 1
    with pytest.raises(PeopleError, match="cannot write: attempt to write a readonly database"):
        reader.say("name", "a/2", {}, "eve", 0)
    reader.close()
    writer.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")
def test_what_root_writes_the_service_can_go_on_writing(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Root, at the command line, makes the file and keeps it open; the service, another user, writes to it, too."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # pytest's own folders are closed to others
        folder = Path(name)
        os.chown(folder, SERVICE, SERVICE)
        by_root = PeopleFile(folder / FILE)
        by_root.say("name", "a/1", {}, "root", 0)
        owners = {one.name: (one.stat().st_uid, one.stat().st_gid) for one in folder.iterdir()}
        assert owners == dict.fromkeys((FILE, f"{FILE}-wal", f"{FILE}-shm"), (SERVICE, SERVICE))
        assert _as_service(folder) == "2"
        assert by_root.head() == 2
        by_root.close()
        (folder / "other").symlink_to(tmp_path_factory.mktemp("of_root") / "secret")
        with suppress(PeopleError):
            PeopleFile(folder / "other").close()
        assert (folder / "other").resolve().stat().st_uid == 0


def _as_service(folder: Path) -> str:
    """In a process of that user: its number, once it has said something."""
    program = f"""
import os, sys
from pathlib import Path
from tscc_stream.edges.people import PeopleFile
os.setgroups([]); os.setgid({SERVICE}); os.setuid({SERVICE})
print(PeopleFile(Path({str(folder / FILE)!r})).say("name", "a/2", {{}}, "service", 0))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_names_are_of_one_model(tmp_path: Path) -> None:
    file = PeopleFile(tmp_path / FILE)
    names.give(file, "a" * 64, 1, Label(name="blast"), "eve", 1)
    names.give(file, "a" * 64, 11, Label(name="drilling", colour="#112233"), "eve", 2)
    names.give(file, "b" * 64, 1, Label(name="crusher"), "eve", 3)
    assert names.given(file, "a" * 64) == {1: Label(name="blast"), 11: Label(name="drilling", colour="#112233")}
    assert names.given(file, "c" * 64) == {}
    file.say(names.KIND, "d/1", {"name": ""}, "eve", 4)
    names.give(file, "d", 2, Label(name="blast"), "eve", 5)
    file.say(names.KIND, "d/three", {"name": "crusher"}, "eve", 6)
    assert names.given(file, "d") == {2: Label(name="blast")}, "only those that cannot be read are left out"
    file.close()


def spoil(path: Path, subject: str, document: str) -> None:
    """A row as a damaged page, or another program, leaves it."""
    db = sqlite3.connect(path)
    db.execute(
        "INSERT INTO said (at_ns, who, kind, subject, document) VALUES (1, 'eve', 'verdict', ?, CAST(? AS TEXT))",
        (subject, document.encode("latin-1")),
    )
    db.commit()
    db.close()


UNREADABLE = ("{", "[1]", '"text"', "null", "[" * 100_000, '{"name": "\xff"}')


def test_a_row_that_cannot_be_read_takes_nothing_else_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / FILE
    file = PeopleFile(path)
    good = {"name": "blast", "agrees": True}
    file.say("verdict", "before", good, "eve", 1)
    for number, document in enumerate(UNREADABLE):
        spoil(path, f"u{number}", document)
    file.say("verdict", "after", good, "eve", 2)
    for _ in range(3):
        assert list(file.latest("verdict")) == ["before", "after"]
    assert [one.subject for one in file.after(0)] == ["before", "after"]
    assert [one.subject for one in file.after(1, 1)] == ["after"], "unreadable rows do not fill a page"
    assert (file.on("verdict", "u1"), file.all_on("verdict", "u1")) == (None, [])
    assert list(verdicts.read(tmp_path)) == ["before", "after"]
    told = [one for one in caplog.messages if str(path) in one]
    assert [one.partition(" cannot")[0] for one in told] == [f"{path}: row {n}" for n in range(2, 8)], "once each"
    file.close()


def test_a_file_that_takes_the_place_of_another_is_opened_anew(tmp_path: Path) -> None:
    there, backup = PeopleThere(tmp_path / FILE), PeopleFile(tmp_path / "backup")
    there.file().say("name", "a/1", {}, "eve", 1)
    assert there.file() is there.file()
    backup.say("name", "b/1", {}, "eve", 1)
    backup.close()
    there.close()
    assert list(there.file().latest("name")) == ["a/1"]
    (tmp_path / "backup").replace(tmp_path / FILE)
    assert list(there.file().latest("name")) == ["b/1"]
    there.close()


def test_a_name_is_in_the_messages_that_follow_and_after_a_restart(tmp_path: Path) -> None:
    server, address = serving(make_archive(tmp_path), "--speed", "4")
    path = write_settings(tmp_path, address)
    state = tmp_path / "state"
    with server, daemon(path) as (running, where), listen(where) as everything:
        file = PeopleFile(state / FILE)
        for cluster in range(DEMO.spec.clusters):
            names.give(file, DEMO.sha256, cluster, Label(name=f"given {cluster}"), "eve", time.time_ns())
        file.close()
        said = until(everything, "status.model.", state="named").body["data"]
        assert said["names"] == {str(k): f"given {k}" for k in range(DEMO.spec.clusters)}
        named = until(everything, "detection.").body["data"]["cluster"]
        assert named["name"] in (f"given {named['id']}", "unknown")
        assert running.stop() == 0
    with daemon(path) as (running, _):
        assert running.stop() == 0
    assert DEMO.given == {}


def test_a_file_of_names_that_cannot_be_read_is_told_and_the_daemon_goes_on(tmp_path: Path) -> None:
    path = write_settings(tmp_path)
    (tmp_path / "state").mkdir(exist_ok=True)
    (tmp_path / "state" / FILE).write_bytes(b"nonsense" * 512)
    with daemon(path) as (running, _):
        running.wait_for("names of clusters: .*people.sqlite: cannot open: file is not a database")
        assert running.stop() == 0


def test_two_clusters_of_one_name_are_told() -> None:
    loaded = package.load(package.find("models/demo"))
    loaded.given = {0: Label(name="blast"), 1: Label(name="Blast")}
    assert names.same_name(loaded, 0, "blast") == []
    assert names.told_same_name(loaded, 0, "blast") == ""
    assert names.same_name(loaded, 1, "blast") == [0]
    assert names.told_same_name(loaded, 1, "blast").startswith("cluster 0 is called 'blast' too: ")
    assert names.same_name(loaded, 0, "mixed") == [5], "names of the package count as well"
    loaded.given[2] = Label(name="blast")
    assert names.told_same_name(loaded, 1, "blast").startswith("clusters 0, 2 are called")


def test_no_cluster_is_named_unknown(tmp_path: Path) -> None:
    file = PeopleFile(tmp_path / FILE)
    with pytest.raises(names.NameRefusedError, match="unknown is what belongs to no cluster"):
        names.give(file, "a" * 64, 1, Label(name=" Unknown "), "eve", 1)
    assert file.head() == 0
    file.close()


def test_what_is_said_on_what_was_seen_is_refused_where_somebody_else_spoke_all_of_it_or_nothing(
    tmp_path: Path,
) -> None:
    file = PeopleFile(tmp_path / FILE)
    seen = {"a": file.say("verdict", "a", {"name": "blast"}, "anna", 1), "b": 0}

    def unchanged(subject: str, last: Said | None) -> bool:
        return (0 if last is None else last.number) == seen[subject]

    documents = {"b": {"name": "noise"}, "a": {"name": "noise"}}
    later = file.say("verdict", "a", {"name": "tremor"}, "eve", 2)
    with pytest.raises(ChangedError) as refused:
        file.say_where_unchanged("verdict", documents, "carl", 3, unchanged)
    assert (refused.value.subject, refused.value.said and refused.value.said.who) == ("a", "eve")
    assert (file.head(), file.on("verdict", "b")) == (later, None)
    seen["a"] = later
    assert file.say_where_unchanged("verdict", documents, "carl", 3, unchanged) == file.head() == later + 2
    file.close()
