"""The field's way from a packet to a window, in obspy's own calls.

Sources: obspy's tutorial on triggers and its SeedLink clients, whose `on_data` is given one packet as a Trace; the
programs built on them keep the last seconds of each channel, add the packet, filter what they have, and compute the
STA/LTA of it anew.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import obspy
from obspy.signal.trigger import recursive_sta_lta, trigger_onset

from tscc_stream.config import Config
from tscc_stream.messages import Float32Array
from tscc_stream.package import PackageSpec


class ObspyFront:
    """Packets of any channels to windows [samples], as they would be handed to an encoder."""

    def __init__(self, config: Config, spec: PackageSpec) -> None:
        self._low, self._high = config.condition.band_hz
        self._corners = config.condition.corners
        self._trigger, self._spec = config.trigger, spec
        self._kept: dict[str, Any] = {}
        self._ends: dict[str, Any] = {}
        self.windows: list[Float32Array] = []

    def packet(self, payload: bytes) -> None:
        """What comes of one record."""
        trace = obspy.read(io.BytesIO(payload), format="MSEED")[0]
        kept = self._kept.get(trace.id)
        if kept is not None:
            trace = kept.__add__(trace, method=1)
        trace.trim(starttime=trace.stats.endtime - self._trigger.lta_seconds - self._seconds)
        self._kept[trace.id] = trace
        self._look(trace)

    @property
    def _seconds(self) -> float:
        return self._spec.samples / self._spec.sample_rate_hz

    def _look(self, trace: Any) -> None:  # noqa: ANN401 obspy has no types
        recent = trace.slice(starttime=trace.stats.endtime - self._trigger.lta_seconds).copy()
        recent.data = recent.data.astype(np.float64)
        recent.filter("bandpass", freqmin=self._low, freqmax=self._high, corners=self._corners)
        rate = recent.stats.sampling_rate
        nsta, nlta = int(self._trigger.sta_seconds * rate), int(self._trigger.lta_seconds * rate)
        ratio = recursive_sta_lta(recent.data, nsta, nlta)
        onsets = trigger_onset(ratio, self._trigger.trigger_on, self._trigger.trigger_off)
        if len(onsets):
            self._cut(trace, recent.stats.starttime + onsets[-1][0] / rate)

    def _cut(self, trace: Any, onset: Any) -> None:  # noqa: ANN401 obspy has no types
        if trace.id in self._ends and onset < self._ends[trace.id]:
            return
        self._ends[trace.id] = onset + self._seconds
        window = trace.slice(onset - 0.2 * self._seconds, onset + 0.8 * self._seconds).copy()
        values = window.data.astype(np.float64)
        values -= values.mean()
        self.windows.append((values / max(values.std(), 1e-12)).astype(np.float32))
