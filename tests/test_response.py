"""Counts to m/s: by the channel's own response at its epoch; what cannot be used is refused by name."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from made_journal import END_NS, make_journal, pipeline_messages
from made_site import START_NS, settings
from obspy import UTCDateTime
from obspy.core.inventory import Channel, Inventory, Network, Response, Station
from obspy.core.inventory.response import InstrumentSensitivity

from tscc_stream import config
from tscc_stream.apps.amplitudes import responses_of
from tscc_stream.apps.journal_formats import SiteJournal, Wanted, write_csv
from tscc_stream.apps.response import ResponseError, Responses

BAND = (10.0, 40.0)
CENTRE = 20.0
GAIN = 28.8 * 1000.0
T0, T1 = UTCDateTime("2020-01-01"), UTCDateTime("2023-01-01")


def geophone(unit: str = "M/S", gain: float = GAIN) -> Response:
    """Two zeros and a natural frequency of 10 Hz, normalised at 100 Hz."""
    corner = 2 * math.pi * 10.0
    poles = [corner * complex(-0.7, 0.714), corner * complex(-0.7, -0.714)]
    return Response.from_paz([0j, 0j], poles, gain, 100.0, input_units=unit, output_units="COUNTS")


def sensitivity_alone(unit: str, value: float) -> Response:
    return Response(instrument_sensitivity=InstrumentSensitivity(value, 20.0, unit, "COUNTS"))


def written(path: Path, *channels: tuple[str, Response | None, UTCDateTime | None, UTCDateTime | None]) -> Path:
    made = [
        Channel(code, "", 0.0, 0.0, 0.0, 0.0, response=response, start_date=begin, end_date=end, sample_rate=100.0)
        for code, response, begin, end in channels
    ]
    station = Station("A", 0.0, 0.0, 0.0, channels=made)
    Inventory([Network("XX", [station])]).write(str(path), format="STATIONXML")
    return path


def at(time: UTCDateTime) -> int:
    return int(time.ns)


def flat(unit: str, tmp_path: Path) -> Responses:
    response = Response.from_paz([], [-1e6 + 0j], 1000.0, 20.0, input_units=unit, output_units="COUNTS")
    return Responses(written(tmp_path / f"{unit.replace('/', '-')}.xml", ("HHZ", response, T0, None)))


def test_a_geophone_below_its_corner_needs_more_ground_for_the_same_counts(tmp_path: Path) -> None:
    responses = Responses(written(tmp_path / "s.xml", ("HHZ", geophone(), T0, None)))
    w, corner = 2 * math.pi * CENTRE, 2 * math.pi * 10.0
    s = 1j * w
    shape = abs(s**2 / (s**2 + 1.4 * corner * s + corner**2 * (0.49 + 0.714**2)))
    w100 = 2j * math.pi * 100.0
    norm = abs(w100**2 / (w100**2 + 1.4 * corner * w100 + corner**2 * (0.49 + 0.714**2)))
    found = responses.metres_per_second("XX.A..HHZ", 1000.0, at(T1), BAND)
    assert found == pytest.approx(1000.0 / (GAIN * shape / norm), rel=1e-6)


@pytest.mark.parametrize(("unit", "power"), [("M/S", 0), ("M/S**2", 1), ("M", -1)])
def test_acceleration_and_displacement_are_converted_at_the_bands_centre(tmp_path: Path, unit: str, power: int) -> None:
    """An acceleration of a is a velocity of a / (2 pi f): more counts per m/s, by 2 pi f."""
    expected = 5.0 / (1000.0 * (2 * math.pi * CENTRE) ** power)
    found = flat(unit, tmp_path).metres_per_second("XX.A..HHZ", 5.0, at(T1), BAND)
    assert found == pytest.approx(expected, rel=1e-6)


def test_the_epoch_decides(tmp_path: Path) -> None:
    path = written(
        tmp_path / "s.xml",
        ("HHZ", sensitivity_alone("M/S", 100.0), T0, T1),
        ("HHZ", sensitivity_alone("M/S", 400.0), T1, None),
        ("HHN", None, T0, None),
    )
    responses = Responses(path)
    assert responses.metres_per_second("XX.A..HHZ", 800.0, at(T1) - 1, BAND) == 8.0
    assert responses.metres_per_second("XX.A..HHZ", 800.0, at(T1), BAND) == 2.0
    for channel, time in (("XX.A..HHZ", at(T0) - 1), ("XX.A..HHN", at(T1)), ("XX.B..HHZ", at(T1))):
        assert responses.metres_per_second(channel, 800.0, time, BAND) is None
        assert responses.refused[channel] == f"channel {channel}: the StationXML has no response for it at that time"


def test_what_is_no_ground_motion_is_refused_by_name(tmp_path: Path) -> None:
    path = written(
        tmp_path / "s.xml",
        ("HDF", sensitivity_alone("PA", 10.0), T0, None),
        ("HHZ", sensitivity_alone("M/S", 0.0), T0, None),
    )
    responses = Responses(path)
    with pytest.raises(ResponseError, match=r"channel XX.A..HDF, epoch 1: its response is in PA; expected m, m/s"):
        responses.sensitivity("XX.A..HDF", at(T1), CENTRE)
    assert responses.metres_per_second("XX.A..HHZ", 1.0, at(T1), BAND) is None
    assert "sensitivity 0 at 20 Hz; expected a number above 0" in responses.refused["XX.A..HHZ"]


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ResponseError, match="cannot be read: No such file"):
        Responses(tmp_path / "none.xml")
    for text in ("", "<html></html>", "not xml", "<?xml version='1.0'?><FDSNStationXML>"):
        (tmp_path / "bad.xml").write_text(text)
        with pytest.raises(ResponseError, match="not a readable StationXML file"):
            Responses(tmp_path / "bad.xml")


def test_exports_have_both(tmp_path: Path) -> None:
    messages = pipeline_messages(tmp_path)
    path = make_journal(tmp_path, messages)
    written(tmp_path / "s.xml", ("HHZ", sensitivity_alone("M/S", 1000.0), T0, None))
    known = config.parse(json.dumps(settings(tmp_path, stationxml="s.xml")))
    assert responses_of(known, tmp_path) is not None
    site = SiteJournal(path, known, tmp_path)
    with (tmp_path / "out.csv").open("w") as out:
        assert write_csv(site, Wanted(span_ns=(START_NS, END_NS)), out, lambda *_: None) == len(messages)
    site.close()
    lines = [line.split(",") for line in (tmp_path / "out.csv").read_text().splitlines()]
    columns = {name: place for place, name in enumerate(lines[0])}
    for line in lines[1:]:
        velocity, counts = line[columns["peak_velocity_m_s"]], line[columns["peak_amplitude"]]
        if line[columns["channel"]] == "XX.A..HHZ":
            assert float(velocity) == pytest.approx(float(counts) / 1000.0, rel=1e-5)
        else:
            assert velocity == ""
    assert set(site.amplitudes.refused) == {"XX.B..HHZ", "XX.C..HHZ", "XX.D..HHZ"}
