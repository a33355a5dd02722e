"""Model packages whose encoder cannot take certain windows: it raises, never ends, or takes the process with it."""

# No `from __future__ import annotations`: TorchScript wants the type of `poison` itself, not its name.
import io
import json
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from made_site import settings
from torch import Tensor, nn

from tscc_stream import config, package
from tscc_stream.edges import archive
from tscc_stream.messages import Window
from tscc_stream.pipeline import FrontHalf

DEMO = package.find("models/demo")
How = Literal["raises", "hangs", "crashes", "slow"]


class _Poisoned(nn.Module):
    """The encoder within, but for windows that equal one of `poison` [n, samples, channels]: those make it `bite`.

    Every fault is a model of its own: what a model holds, torch may carry out ahead of time while it optimises.
    """

    poison: Tensor

    def __init__(self, inner: nn.Module, poison: Tensor, turns: int) -> None:
        super().__init__()
        self.inner = inner
        self.turns = turns
        self.register_buffer("poison", poison)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        for i in range(self.poison.shape[0]):
            if bool((x - self.poison[i]).abs().amax(dim=[1, 2]).lt(1e-5).any()):
                x = x + self.bite(x)
        return self.inner(x)


class _Raises(_Poisoned):
    def bite(self, x: Tensor) -> Tensor:
        assert x.numel() < 0, "this window is poison"
        return x.sum()


class _Hangs(_Poisoned):
    def bite(self, x: Tensor) -> Tensor:
        n = 0
        while n >= 0:
            n += self.turns
        return x.sum() * float(n)  # else torch sees that nobody needs the loop, and leaves it out


class _Crashes(_Poisoned):
    def bite(self, x: Tensor) -> Tensor:
        far = torch.full([1, 1], 1000000000000 + x.numel())  # an index outside of everything, and unchecked
        wild: Tensor = torch.ops.aten._sparse_coo_tensor_unsafe(far, torch.ones(1), [10]).to_dense()
        return wild.sum()


class _Slow(_Poisoned):
    def bite(self, x: Tensor) -> Tensor:
        y = torch.zeros(1)
        for _ in range(self.turns):
            y = torch.sin(y)
        return y.sum()


_FAULTS = {"raises": _Raises, "hangs": _Hangs, "crashes": _Crashes, "slow": _Slow}


def windows_of(archive_folder: Path) -> list[Window]:
    """Every window that the daemon will cut out of an archive, in order of onset."""
    known = config.parse(json.dumps(settings(archive_folder)))
    front = FrontHalf(known, package.load(DEMO).spec)
    found = [m for record in archive.iter_records(archive.index([archive_folder])) for m in front.feed(record)]
    return sorted((m for m in [*found, *front.flush()] if isinstance(m, Window)), key=lambda w: (w.onset_ns, w.sid))


def poisoned(folder: Path, how: How, windows: Sequence[Window], turns: int = 1) -> Path:
    """The shipped package with such an encoder. turns: how slow, per window: each takes about a microsecond."""
    shutil.copytree(DEMO, folder)
    poison = torch.from_numpy(np.stack([window.normalised for window in windows]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        inner = torch.jit.load(io.BytesIO((DEMO / "encoder.ts").read_bytes())).eval()  # type: ignore[no-untyped-call]  # the library gives it no type
        module = torch.jit.script(_FAULTS[how](inner, poison, turns).eval())
        torch.jit.save(module, folder / "encoder.ts")  # type: ignore[no-untyped-call]  # torch has no types here
    document = package.load(DEMO).spec.model_dump(exclude={"format", "sha256"})
    package.write(folder, {**document, "name": f"demo-{how}"}, package.load(DEMO).labels)
    package.load_live(folder)
    return folder
