"""The field's way of a live trigger with an encoder behind it, a process: latency_field PORT PACKAGE SETTINGS.

As obspy documents it: an EasySeedLinkClient whose callback gets each record as a Trace (obspy tutorial, "SeedLink"), a
Stream per channel that is merged and trimmed (`merge`, `trim`), and on a copy of it, per packet, `filter`,
`recursive_sta_lta` and `trigger_onset` (tutorial, "Trigger/Picker"). A window is cut, filtered and resampled once its
samples are there, goes alone through the plain eager encoder, and is printed. Nothing is journalled or published.

SETTINGS: JSON with band_hz, sta_seconds, lta_seconds, trigger_on, trigger_off, sids. Prints lines as latency_reader
does.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from obspy import Stream, Trace
from obspy.clients.seedlink.easyseedlink import EasySeedLinkClient
from obspy.signal.trigger import recursive_sta_lta, trigger_onset

from tscc_stream.learn.network import Encoder, encoder_from, pool
from tscc_stream.package import Package, load_live
from tscc_stream.source_id import to_nslc
from tscc_stream.windows import normalise

TIMEOUT_S = 60.0


class Client(EasySeedLinkClient):  # type: ignore[misc]  # obspy is untyped
    """Detections of all channels, printed as they come."""

    def __init__(self, port: int, package: Package, encoder: Encoder, settings: dict[str, Any]) -> None:
        super().__init__(f"127.0.0.1:{port}", autoconnect=False)
        self.conn.timeout = TIMEOUT_S
        self.connect()
        self._spec, self._encoder, self._settings = package.spec, encoder, settings
        self._streams: dict[str, Stream] = {}
        self._told: dict[str, float] = {}
        self._sids = {to_nslc(sid): sid for sid in settings["sids"]}
        for nslc in self._sids:
            network, station, _, channel = nslc.split(".")
            self.select_stream(network, station, channel)

    def on_data(self, trace: Trace) -> None:
        """Everything anew, on the last lta + window seconds."""
        spec, settings = self._spec, self._settings
        before_s, after_s = self._window_seconds()
        stream = self._streams.setdefault(trace.id, Stream())
        stream += trace
        stream.merge(method=1)
        keep_s = settings["lta_seconds"] + before_s + after_s + spec.warmup_seconds
        stream.trim(stream[0].stats.endtime - keep_s)
        work, rate = stream.copy(), trace.stats.sampling_rate
        work.filter("bandpass", freqmin=settings["band_hz"][0], freqmax=settings["band_hz"][1], corners=4)
        ratio = recursive_sta_lta(
            work[0].data, int(settings["sta_seconds"] * rate), int(settings["lta_seconds"] * rate)
        )
        for on, _ in trigger_onset(ratio, settings["trigger_on"], settings["trigger_off"]):
            onset = stream[0].stats.starttime + on / rate
            seen = onset.timestamp - self._told.get(trace.id, 0.0) < after_s
            if not seen and stream[0].stats.endtime >= onset + after_s:
                self._told[trace.id] = onset.timestamp
                self._detect(stream[0], onset, before_s, after_s)

    def _window_seconds(self) -> tuple[float, float]:
        spec = self._spec
        return spec.onset_sample / spec.sample_rate_hz, (spec.samples - spec.onset_sample) / spec.sample_rate_hz

    def _detect(self, trace: Trace, onset: Any, before_s: float, after_s: float) -> None:  # noqa: ANN401  # obspy's time
        spec = self._spec
        cut = trace.slice(onset - before_s - spec.warmup_seconds, onset + after_s).copy()
        cut.filter("bandpass", freqmin=spec.band_hz[0], freqmax=spec.band_hz[1], corners=4)
        cut.resample(spec.sample_rate_hz)
        waveform = np.zeros((spec.samples, 1), np.float32)
        last = cut.data[-spec.samples :]
        waveform[: len(last), 0] = last
        with torch.no_grad():
            vector = pool(self._encoder(torch.from_numpy(normalise(waveform, spec.normalisation)[np.newaxis])))
        line = [self._sids[trace.id], onset.ns, time.monotonic_ns(), vector.shape[1]]
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def main(port: int, folder: Path, settings: dict[str, Any]) -> None:
    package = load_live(folder)
    torch.set_num_threads(1)
    encoder = encoder_from(torch.load(folder / "weights.pt", weights_only=True)).eval()
    with torch.no_grad():
        encoder(torch.zeros(1, package.spec.samples, package.spec.channels))
    Client(port, package, encoder, settings).run()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
