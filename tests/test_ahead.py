from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from in_time import PATIENCE_S

from tscc_stream.ahead import one_ahead


def test_order_and_end_stay() -> None:
    assert list(one_ahead(iter(range(1, 100)))) == list(range(1, 100))
    assert list(one_ahead(iter([]))) == []


def test_the_next_item_is_made_meanwhile_and_no_more() -> None:
    begun = [threading.Event() for _ in range(3)]

    def made() -> Iterator[int]:
        for number, event in enumerate(begun):
            event.set()
            yield number

    items = one_ahead(made())
    assert next(items) == 0
    assert begun[1].wait(PATIENCE_S)
    assert not begun[2].is_set()
    items.close()  # type: ignore[attr-defined]  # it is a generator
    assert not any(thread.name.startswith("ahead") for thread in threading.enumerate())


def test_an_exception_comes_in_its_place() -> None:
    def made() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    items = one_ahead(made())
    assert next(items) == 1
    with pytest.raises(ValueError, match="no more"):
        next(items)
