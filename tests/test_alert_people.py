"""What people say to alerts reaches the process, whatever else is in the file, and whichever file it is."""

from __future__ import annotations

from pathlib import Path

from tscc_stream.apps.alert_people import SUPPRESSION, PeopleNews, acknowledge, announce, announced, end_announced
from tscc_stream.apps.alert_times import Announced
from tscc_stream.edges.people import FILE, PeopleFile

BLAST = Announced(10, 20, "blast")


def test_a_blast_that_cannot_be_read_hides_nothing_and_holds_up_no_answer(tmp_path: Path) -> None:
    news, people = PeopleNews(tmp_path), PeopleFile(tmp_path / FILE)
    people.say(SUPPRESSION, "of another form", {"from_ns": "now"}, "anna", 1)
    announce(people, BLAST, "anna", 2)
    acknowledge(people, "alert", "", "anna", 3)
    assert news.look() == (["alert"], [BLAST])
    assert news.look() == ([], None)
    assert end_announced(people, "anna", 12) == 1
    assert list(announced(people).values()) == [Announced(10, 12, "blast")]
    news.close()
    people.close()


def test_a_file_that_takes_the_place_of_another_is_read(tmp_path: Path) -> None:
    news, people = PeopleNews(tmp_path), PeopleFile(tmp_path / FILE)
    acknowledge(people, "before", "", "anna", 1)
    assert news.look() == (["before"], [])
    people.close()
    restored = PeopleFile(tmp_path / "backup")
    acknowledge(restored, "in the backup", "", "anna", 1)
    restored.close()
    for rest in (f"{FILE}-wal", f"{FILE}-shm"):
        (tmp_path / rest).unlink(missing_ok=True)
    (tmp_path / "backup").replace(tmp_path / FILE)
    assert news.look() == (["in the backup"], [])
    (tmp_path / FILE).unlink()
    assert news.look() == ([], [])
    news.close()
