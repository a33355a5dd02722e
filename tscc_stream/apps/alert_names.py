"""Names of clusters that rules and blast windows ask for and that no cluster has: a slip of the pen tells nobody."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from tscc_stream import activation, names, package
from tscc_stream.activation import ActivationError
from tscc_stream.alerts_in_vain import UNKNOWN
from tscc_stream.config import Config
from tscc_stream.edges.people import FILE, PeopleError, PeopleFile
from tscc_stream.package import PackageError


def names_in_use(config: Config, state_dir: Path, folder: Path) -> frozenset[str] | None:
    """What clusters of the live model are called now; None where that cannot be told. folder: of the configuration."""
    try:
        live = package.load(activation.live_folder(state_dir, package.find(config.model, folder)))
        if (state_dir / FILE).is_file():
            people = PeopleFile(state_dir / FILE, read_only=True)
            live.given = names.given(people, live.sha256)
            people.close()
    except (PackageError, ActivationError, PeopleError):
        return None
    return frozenset(live.name_of(cluster) for cluster in range(live.spec.clusters))


def without_cluster(config: Config, known: frozenset[str]) -> list[str]:
    """One sentence for each name that no cluster has."""
    asked = [(f"rule {rule.name}", name) for rule in config.alerts.rules for name in rule.clusters]
    asked += [(f"suppression {one.reason}", name) for one in config.alerts.suppression for name in one.clusters]
    return [
        f"{where}: no cluster is called {name!r} at present{_meant(name, known)}"
        for where, name in asked
        if name not in known and name != UNKNOWN
    ]


def _meant(name: str, known: frozenset[str]) -> str:
    close = get_close_matches(name, known, 1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(sorted(known))}"
