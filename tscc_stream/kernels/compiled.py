"""How loops are compiled: without the interpreter's lock, floating-point operations in the order written, kept on disk.

The machine code is kept beside the source, or in NUMBA_CACHE_DIR where that is set; where neither can be written, it is
made anew in each process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
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


def compiled(loop: _Loop) -> _Loop:
    """The same loop over numpy arrays and numbers, compiled at its first call."""
    try:
        made = numba.njit(cache=True, nogil=True, error_model="numpy")(loop)
    except RuntimeError:  # no place to keep it
        made = numba.njit(nogil=True, error_model="numpy")(loop)
    return cast("_Loop", made)


def compiled_contracting(loop: _Loop) -> _Loop:
    """As `compiled`, but products and sums may be taken in one instruction: for what promises no equal bits."""
    try:
        made = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})(loop)
    except RuntimeError:  # no place to keep it
        made = numba.njit(nogil=True, error_model="numpy", fastmath={"contract"})(loop)
    return cast("_Loop", made)


def inlined(loop: _Loop) -> _Loop:
    """A piece of compiled loops, without a call."""
    return cast("_Loop", numba.njit(inline="always", error_model="numpy")(loop))
