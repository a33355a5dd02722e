"""Whole-trace obspy over files, as its documentation has it: read, band-pass, recursive STA/LTA, trigger.

Also a program of its own, so that its start can be measured: band and trigger settings as JSON, then the files.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable


def triggers(settings: dict[str, float], files: Iterable[str]) -> int:
    """How many there are. settings: low, high (Hz), corners, sta, lta (s), on, off."""
    import obspy  # noqa: PLC0415  # the program's start is measured with it
    from obspy.signal.trigger import recursive_sta_lta, trigger_onset  # noqa: PLC0415  # loaded where it is needed

    found = 0
    for file in files:
        for trace in obspy.read(file):
            rate = trace.stats.sampling_rate
            trace.filter(
                "bandpass", freqmin=settings["low"], freqmax=settings["high"], corners=int(settings["corners"])
            )
            ratio = recursive_sta_lta(trace.data, int(settings["sta"] * rate), int(settings["lta"] * rate))
            found += len(trigger_onset(ratio, settings["on"], settings["off"]))
    return found


if __name__ == "__main__":
    print(triggers(json.loads(sys.argv[1]), sys.argv[2:]))  # noqa: T201  # a program's own output
