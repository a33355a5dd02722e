"""Peak amplitudes of a site's detections: in m/s where its StationXML has a response, else in counts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tscc_stream.apps.response import Responses
from tscc_stream.config import Config
from tscc_stream.package import PackageSpec
from tscc_stream.source_id import to_nslc


class Amplitudes:
    """responses: of the configuration's `stationxml`; None where it names none."""

    def __init__(self, responses: Responses | None, specs: Mapping[str, PackageSpec]) -> None:
        """specs: of the models that made the detections, by SHA-256: their band is the amplitudes'."""
        self._responses, self._specs = responses, specs

    def metres_per_second(self, body: Mapping[str, Any]) -> float | None:
        """Of a detection's message; None: it stays in counts."""
        spec = self._specs.get(body["data"]["model"]["sha256"])
        counts = body["data"]["peak_amplitude"]
        if self._responses is None or spec is None or counts is None:
            return None
        channel = to_nslc(body["subject"])
        return self._responses.metres_per_second(channel, counts, body["data"]["onset_ns"], spec.band_hz)

    @property
    def refused(self) -> dict[str, str]:
        """Channels that stay in counts, and why."""
        return {} if self._responses is None else dict(self._responses.refused)


def responses_of(config: Config, base: Path) -> Responses | None:
    """What `stationxml` names, relative to the configuration or to where the command runs. Raises ResponseError."""
    if config.stationxml is None:
        return None
    beside = base / config.stationxml
    return Responses(beside if beside.is_file() else Path(config.stationxml))
