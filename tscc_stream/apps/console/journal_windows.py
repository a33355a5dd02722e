"""Windows of single detections out of the journal."""

from __future__ import annotations

import numpy as np

from tscc_stream.edges.sqlite import JournalReader
from tscc_stream.messages import Float32Array
from tscc_stream.package import Package


def window_at(journal: JournalReader, seq: int, package: Package) -> Float32Array | None:
    """[samples, channels] as the encoder saw it; None where the journal does not hold it any more."""
    page = journal.since(seq - 1, "waveform.detection.", 1)
    if not page.messages or page.messages[0].seq != seq:
        return None
    return _shaped(page.messages[0].message.waveform or b"", package)


def band_passed_at(journal: JournalReader, seq: int, package: Package) -> Float32Array | None:
    """[samples, channels] before normalisation, counts; None where the journal does not hold it any more."""
    found = journal.windows(seq - 1, 1)
    return _shaped(found[0].band_passed, package) if found and found[0].seq == seq else None


def _shaped(samples: bytes, package: Package) -> Float32Array | None:
    """None where it was cut for another model."""
    shape = (package.spec.samples, package.spec.channels)
    if len(samples) != 4 * shape[0] * shape[1]:
        return None
    window: Float32Array = np.frombuffer(samples, "<f4").astype(np.float32).reshape(shape)
    return window
