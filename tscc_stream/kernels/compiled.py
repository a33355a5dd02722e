"""How loops are compiled: without the interpreter's lock, floating-point operations in the order written, kept on disk.

The machine code is kept beside the source, or in NUMBA_CACHE_DIR where that is set; where neither can be written, it is
made anew in each process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

import numba


def _load_without_blas() -> None:
    """Numba looks for matrix products in scipy.linalg, which takes longer to load than numba; no loop here has any."""
    modules = cast("dict[str, ModuleType | None]", sys.modules)
    name = "scipy.linalg.cython_blas"
    before = modules.get(name)
    if before is None:
        modules[name] = None
    import_module("numba.np.arraymath")
    if before is None:
        del modules[name]


_load_without_blas()
_Loop = TypeVar("_Loop", bound=Callable[..., Any])
_SOURCES = sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()


def _kept(loop: Callable[..., Any], **settings: Any) -> Any:
    """Compiled at its first call, and kept for other processes until any file of this folder changes.

    Numba itself would look at the loop's own file alone, and miss a change of what it calls in another one.
    """
    settings |= {"nogil": True, "error_model": "numpy"}
    try:
        made = numba.njit(cache=True, **settings)(loop)
    except RuntimeError:  # no place to keep it
        return numba.njit(**settings)(loop)
    file = made._cache._cache_file
    file._source_stamp = (file._source_stamp, _SOURCES)
    return made


def compiled(loop: _Loop) -> _Loop:
    """The same loop over numpy arrays and numbers, compiled at its first call; it makes no arrays.

    Nothing counts who holds one (_nrt), since callers keep theirs. Counting took a fifth of the time of kernels.front.
    """
    return cast("_Loop", _kept(loop, _nrt=False))


def compiled_contracting(loop: _Loop) -> _Loop:
    """As `compiled`, but products and sums may be taken in one instruction: for what promises no equal bits."""
    return cast("_Loop", _kept(loop, fastmath={"contract"}))


def inlined(loop: _Loop) -> _Loop:
    """A piece of compiled loops, without a call."""
    return cast("_Loop", numba.njit(inline="always", error_model="numpy")(loop))
