"""What was compiled is used again by other processes, until any file of the loops changes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from in_time import PATIENCE_S

import tscc_stream.kernels

PROGRAM = """
import numpy as np
from kernels.one import total
total(np.zeros(3))
print(len(total.stats.cache_hits))
"""


def test_a_change_in_another_file_is_noticed(tmp_path: Path) -> None:
    source = Path(tscc_stream.kernels.__file__).parent
    kernels = tmp_path / "kernels"
    kernels.mkdir()
    shutil.copy(source / "compiled.py", kernels)
    (kernels / "__init__.py").write_text("")
    (kernels / "other.py").write_text("from kernels.compiled import inlined\n@inlined\ndef part(x):\n    return x\n")
    (kernels / "one.py").write_text(
        "from kernels.compiled import compiled\nfrom kernels.other import part\n"
        "@compiled\ndef total(values):\n    return part(values.sum())\n"
    )

    def hits() -> str:
        done = subprocess.run(
            [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}){PROGRAM}"],
            capture_output=True, text=True, check=True, timeout=PATIENCE_S,
        )  # fmt: skip
        return done.stdout.strip()

    assert [hits(), hits()] == ["0", "1"]
    with (kernels / "other.py").open("a") as file:
        file.write("# another\n")
    assert [hits(), hits()] == ["0", "1"]
