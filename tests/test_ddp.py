"""Several processes train what one trains: the same windows, draws and losses, and weights that are equal on all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_group
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_train import KNOWN, TINY, windows

from tscc_stream.learn import losses, many, views
from tscc_stream.learn.group import ALONE
from tscc_stream.learn.part import Part
from tscc_stream.learn.run import TERMS
from tscc_stream.learn.settings import TrainingError

pytestmark = pytest.mark.usefixtures("one_torch_thread")
Call = Callable[..., list[Any]]
TOLERANCE = 1e-4
"""Of a loss, relative, as docs/training.md has it: what another order of sums in float32 makes of a curve."""
CONTRAST: dict[str, object] = {
    "contrast_share": 1.0,
    "surrogate_share": 0.0,
    "background_share": 0.0,
    "coincidence_share": 0.0,
    "strength_share": 0.0,
    "space": "representation",
    "dropout": 0.1,
}


@pytest.fixture(scope="module")
def pools() -> Iterator[dict[int, Call]]:
    """By how many processes there are."""
    with made_group.processes(2) as two, made_group.processes(3) as three:
        yield {2: two, 3: three}


@given(total=st.integers(1, 40), processes=st.integers(1, 7), count=st.integers(1, 20), times=st.integers(1, 2))
def test_parts_are_all_of_a_batch_and_their_weights_are_one(total: int, processes: int, count: int, times: int) -> None:
    parts = [Part(total, rank, processes) for rank in range(processes)]
    values = np.arange(times * total)
    own = [part.own(values).reshape(times, -1) for part in parts]
    if total >= processes:
        assert np.array_equal(np.concatenate(own, axis=1).reshape(-1), values)
    else:
        assert all(np.array_equal(some.reshape(-1), values) for some in own)
    assert sum(part.weight() for part in parts) == pytest.approx(1.0)
    assert sum(part.weight(count) for part in parts) == pytest.approx(1.0)
    counted = torch.arange(total) % 3 == 0
    some = [float(part.weight_of(counted)) for part in parts if counted[part.mine].any()]
    assert sum(some) == pytest.approx(1.0)


@pytest.mark.parametrize("processes", [2, 3])
@given(
    total=st.integers(2, 9),
    length=st.integers(1, 9),
    share=st.sampled_from([0.5, 1.0, 0.2]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=12)
def test_contrast_with_the_windows_of_all_has_the_gradient_of_one_process(
    processes: int, total: int, length: int, share: float, seed: int, pools: dict[int, Call]
) -> None:
    draw = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(total, length, 3, dtype=torch.float64, generator=draw).requires_grad_() for _ in range(2))
    loss = losses.hierarchical_contrastive_loss(a, b, share)
    loss.backward()
    found = pools[processes](made_group.contrast, a.detach(), b.detach(), share)
    assert float(sum(one[0] for one in found)) == pytest.approx(float(loss.detach()), rel=1e-12)
    for expected, grads in ((a.grad, [one[1] for one in found]), (b.grad, [one[2] for one in found])):
        whole = torch.cat(grads) if total >= processes else sum(grads)
        torch.testing.assert_close(whole, expected, rtol=1e-11, atol=1e-13)


def flat(state: dict[str, Any]) -> torch.Tensor:
    """Everything that a run leaves behind."""
    averaged = [value for name, value in state["averaged"].items() if name != "n_averaged"]
    parts = [*state["encoder"].values(), *averaged, *state["objective"]["judge"].values(), state["head"]["centres"]]
    return torch.cat([part.flatten() for part in parts])


def close(one: dict[str, Any], other: dict[str, Any]) -> None:
    """The same curve within the tolerance, the same draws, and weights that are near.

    Adam moves a weight by the rate whatever the size of its gradient, also where that is nothing but rounding.
    """
    for a, b in zip(one["history"], other["history"], strict=True):
        assert (a["phase"], a["number"]) == (b["phase"], b["number"])
        assert [a[name] for name in TERMS] == pytest.approx([b[name] for name in TERMS], rel=TOLERANCE, abs=1e-7)
    assert one["objective"]["rng"] == other["objective"]["rng"]
    assert torch.equal(one["objective"]["generator"], other["objective"]["generator"])
    steps = 3 * len(one["history"])
    torch.testing.assert_close(flat(one), flat(other), rtol=1e-3, atol=2.0 * TINY.rate_pretrain * steps)
    assert one["troubles"] == other["troubles"]


@pytest.mark.parametrize(
    ("changed", "processes"),
    [
        ({}, 3),
        ({"contrast_share": 0.3, "dropout": 0.1}, 2),
        (CONTRAST, 2),
        ({"among": "triggered", "space": "representation", "batch_size": 10}, 3),
        ({"clusters": None, "averaging": 0.0}, 2),
    ],
    ids=["default", "all terms", "contrast alone", "among triggered", "clusters left open"],
)
def test_two_and_three_processes_give_the_curve_of_one(
    changed: dict[str, object], processes: int, pools: dict[int, Call]
) -> None:
    """21 windows in batches of 8 or 10: the last batch has fewer than there are windows a process, or one alone."""
    chosen = replace(TINY, **changed)
    alone = made_group.trained(ALONE, chosen, windows(), KNOWN, None, 99)
    found = pools[processes](made_group.trained, chosen, windows(), KNOWN, None, 99)
    assert all(torch.equal(flat(found[0]), flat(one)) for one in found)
    close(found[0], alone)


@pytest.mark.parametrize(("stop", "before", "after"), [(1, 2, 3), (3, 3, 2), (4, 2, 2)])
def test_a_run_goes_on_with_another_number_of_processes(
    stop: int, before: int, after: int, pools: dict[int, Call]
) -> None:
    whole = made_group.trained(ALONE, TINY, windows(), KNOWN, None, 99)
    cut_off = pools[before](made_group.trained, TINY, windows(), KNOWN, None, stop)
    assert len(cut_off[0]["history"]) == stop
    resumed = pools[after](made_group.trained, TINY, windows(), KNOWN, cut_off[0], 99)
    close(resumed[0], whole)
    if before == after:
        uninterrupted = pools[after](made_group.trained, TINY, windows(), KNOWN, None, 99)
        assert torch.equal(flat(resumed[0]), flat(uninterrupted[0]))
        assert resumed[0]["history"] == uninterrupted[0]["history"]


def test_whatever_ends_a_process_is_what_people_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def joined(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(many, "joined", joined)
    for name, value in (("OMP_NUM_THREADS", "1"), ("GLOO_SOCKET_IFNAME", "lo")):  # which it would say for itself
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        many._one(1, 2, str(tmp_path), {"device": "cpu"}, 1.0)
    assert ended.value.code == 1
    assert many._cause(tmp_path, [-15, 1]) == "RuntimeError: out of memory"


def test_draws_depend_on_the_place_in_the_batch_alone() -> None:
    x = torch.from_numpy(windows(9))
    whole = views.flipped(x, np.random.default_rng(3))
    for processes in (1, 2, 3, 4):
        parts = [Part(9, rank, processes) for rank in range(processes)]
        mine = [views.flipped(x[part.mine], np.random.default_rng(3), part) for part in parts]
        assert torch.equal(torch.cat(mine), whole)
        turned = [views.surrogates(x[part.mine], np.random.default_rng(3), part) for part in parts]
        torch.testing.assert_close(torch.cat(turned), views.surrogates(x, np.random.default_rng(3)))
        both = [torch.cat([x[part.mine], x[part.mine]]) for part in parts]
        seen = [views.flipped(two, np.random.default_rng(3), part, 2) for two, part in zip(both, parts, strict=True)]
        halves = zip(*(two.chunk(2) for two in seen), strict=True)
        assert torch.equal(
            torch.cat([torch.cat(half) for half in halves]), views.flipped(torch.cat([x, x]), np.random.default_rng(3))
        )


def test_what_one_process_finds_wrong_all_are_told(pools: dict[int, Call]) -> None:
    call = pools[3]
    assert call(made_group.told, 1) == ["by 0"] * 3
    assert [str(one) for one in call(made_group.told, 0)] == ["no such file"] * 3
    assert call(made_group.each, []) == [0, 1, 2]
    errors = call(made_group.each, [1])
    assert all(isinstance(one, TrainingError) for one in errors)
    assert [str(one) for one in errors] == ["process 1 of 3: no such file"] * 3
    assert [str(one) for one in call(made_group.each, [0, 1, 2])] == ["no such file"] * 3
    for damaged in (b"{", b"\xff"):
        errors = call(made_group.each_reads, [b"1", b"2", damaged])
        assert all(isinstance(one, TrainingError) for one in errors)
        assert all(str(one).startswith("process 2 of 3: ") for one in errors)
    assert call(made_group.agreed, ["a"] * 3) == [None] * 3
    assert all(
        "process 2 on" in str(one) and "has other data" in str(one) for one in call(made_group.agreed, ["a", "a", "b"])
    )
