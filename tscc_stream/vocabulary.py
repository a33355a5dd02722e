"""Words for kinds of source at a mine, offered where a person names a cluster or corrects a detection.

Those that the open request for comments on the exchange of microseismic data (Microquake-ai) proposes, each with
QuakeML's type of event. A site may have words of its own (`vocabulary` in the configuration).
"""

from __future__ import annotations

from tscc_stream.config_people import Term

_SEISMIC, _BLAST, _NOISE, _OTHER = "#d1495b", "#edae49", "#66788a", "#9a9a9a"

SHIPPED = tuple(
    Term(name=name, event_type=event_type, colour=colour)
    for name, event_type, colour in (
        ("seismic event", "induced or triggered event", _SEISMIC),
        ("rock burst", "rock burst", "#a4133c"),
        ("fall of ground", "cavity collapse", "#c77dff"),
        ("large event", "earthquake", "#7b2cbf"),
        ("offsite event", "earthquake", "#3a86ff"),
        ("blast", "explosion", _BLAST),
        ("development blast", "mining explosion", "#f4a259"),
        ("production blast", "mining explosion", "#e07a1f"),
        ("blast sequence", "mining explosion", "#bc6c25"),
        ("open-pit blast", "quarry blast", "#ddb892"),
        ("paste firing", "mining explosion", "#d4a373"),
        ("calibration blast", "controlled explosion", "#ffd166"),
        ("drilling", "other event", "#2a9d8f"),
        ("crusher", "other event", "#43aa8b"),
        ("orepass", "other event", "#577590"),
        ("scaling", "other event", "#4d908e"),
        ("mechanical", "other event", "#277da1"),
        ("electrical", "not existing", "#5e60ce"),
        ("test pulse", "not existing", "#8d99ae"),
        ("raise bore", "other event", "#1b998b"),
        ("noise", "not existing", _NOISE),
        ("tap test", "other event", _OTHER),
        ("duplicate", "not existing", _OTHER),
    )
)


def of_site(own: tuple[Term, ...]) -> tuple[Term, ...]:
    """The site's own words, or the shipped ones where it has none."""
    return own or SHIPPED
