"""Commands around models: train, dataset build, model show / verify / label / recompile / import-reference."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from tscc_stream import package, progress
from tscc_stream.cli import site_models
from tscc_stream.cli.command import PROGRAM, Commands, UsageError, add_command, config_of, count, real, whole


def add(commands: Commands) -> None:
    """Add them all."""
    _add_train(commands)
    _add_dataset(commands)
    _add_model(commands)


def _add_train(commands: Commands) -> None:
    parser = add_command(
        commands,
        "train",
        "pre-train, find clusters, fine-tune, write a model package",
        "train --data mine.npz --out models/mine --clusters 4",
        _train,
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="FILE.npz|PARQUET",
        help="npz is held in memory; Parquet, a file or a folder of them, is read as training goes on",
    )
    parser.add_argument(
        "--calibration", type=Path, metavar="FILE.npz|PARQUET", help="default: the last fifth of --data by time"
    )
    parser.add_argument(
        "--calibrate-every", type=whole, metavar="N", help="every N-th minute of --data calibrates, not the last fifth"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--recipe",
        choices=("default", "kinds", "published"),
        default="default",
        help="what all else defaults to: clusters that say how much a window is an event (default), or which kind of "
        "source it comes from (kinds), or the TSCC paper's settings (published)",
    )
    parser.add_argument("--init", type=Path, metavar="DIR", help="go on from the encoder of this package")
    parser.add_argument(
        "--clusters", type=_number_or_auto, metavar="K|auto", help="auto: chosen by label-free measures"
    )
    parser.add_argument("--epochs-pretrain", type=whole, metavar="N")
    parser.add_argument("--epochs-finetune", type=whole, metavar="N")
    parser.add_argument("--batch-size", type=whole, metavar="B")
    parser.add_argument("--repr-dims", type=whole, metavar="D")
    parser.add_argument("--distance", choices=("euclidean", "mahalanobis"), help="to the centres")
    parser.add_argument("--head", choices=("centres", "mixture"), help="k-means, or Gaussians of full covariance")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other setting, as in the package's model.json: --set contrast_share=0.3",
    )
    parser.add_argument("--seed", type=whole, default=0, metavar="S")
    parser.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--provenance", default="not stated", help="where the data come from, for the card")
    parser.add_argument("--licence", default="not stated", help="the data's licence, for the card")
    parser.add_argument("--runs", type=Path, default=Path("training"), metavar="DIR", help="where run folders go")
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="that train together, each on a graphics card of its own"
    )
    parser.add_argument(
        "--ray", metavar="local|ADDRESS", help="place --processes on a Ray cluster, or on one on this machine alone"
    )
    parser.add_argument(
        "--wait-seconds", type=float, default=600.0, metavar="S", help="that a process waits for the others"
    )


def _number_or_auto(text: str) -> int | Literal["auto"]:
    try:
        return "auto" if text == "auto" else count(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{text}: expected auto, or a whole number, 1 or more") from error


def _train(options: argparse.Namespace) -> int:
    from tscc_stream.learn import many  # noqa: PLC0415 torch takes seconds

    if options.processes < 1 or not options.wait_seconds > 0.0:
        raise UsageError("train: expected --processes of 1 or more and --wait-seconds above 0")
    if options.ray is not None:
        from tscc_stream.learn import on_ray  # noqa: PLC0415 Ray is an extra

        trained: package.Package | None = on_ray.train(
            options.ray, _wanted(options), options.processes, options.wait_seconds
        )
    else:
        trained = many.train(_wanted(options), options.processes, options.wait_seconds)
    if trained is None:  # another process has written the package
        return 0
    print(f"{options.out}: {trained.spec.clusters} clusters, {trained.sha256[:12]}")
    if options.init is not None:
        from tscc_stream.learn.identity import carry_labels  # noqa: PLC0415  # loaded where it is needed

        print(carry_labels(package.load(package.find(str(options.init))), trained, options.data))
    return 0


def _wanted(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of train_model."""
    return {
        "data": options.data,
        "out": options.out,
        "calibration": options.calibration,
        "calibrate_every": options.calibrate_every,
        "recipe": options.recipe,
        "init": None if options.init is None else package.find(str(options.init)),
        "clusters": options.clusters,
        "epochs_pretrain": options.epochs_pretrain,
        "epochs_finetune": options.epochs_finetune,
        "batch_size": options.batch_size,
        "repr_dims": options.repr_dims,
        "seed": options.seed,
        "device": options.device,
        "distance": options.distance,
        "head": options.head,
        "provenance": options.provenance,
        "licence": options.licence,
        "command": f"{PROGRAM} {shlex.join(sys.argv[1:])}",
        "runs": options.runs,
        "finer": dict(_finer(text) for text in options.set),
    }


def _finer(text: str) -> tuple[str, object]:
    """NAME=VALUE as a pair; the value as JSON, else as text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set {text}: expected NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _add_dataset(commands: Commands) -> None:
    parser = commands.add_parser("dataset", help="data sets for training")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    build = add_command(
        actions,
        "build",
        "windows cut by the very stages of the live path",
        "dataset build --from archive/ --out mine.npz --random 2000 --config config.yaml",
        _build,
    )
    build.add_argument(
        "--from",
        dest="paths",
        nargs="+",
        type=Path,
        required=True,
        metavar="PATH|journal",
        help="recordings, or the word journal: the windows of a running site's detections",
    )
    build.add_argument("--state-dir", type=Path, metavar="DIR", help="whose journal; default: the configuration's")
    build.add_argument(
        "--labels", choices=("verdicts",), help="of a journal: only windows of which a person said what they are, as y"
    )
    build.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE.npz|PARQUET",
        help="Parquet, which need not fit into memory: a name in .parquet, or one without an ending for a folder",
    )
    build.add_argument("--config", type=Path, metavar="FILE", help="trigger settings; default: the shipped ones")
    build.add_argument("--random", type=whole, default=0, metavar="N", help="windows at random times besides")
    build.add_argument("--from-time", metavar="ISO8601")
    build.add_argument("--to-time", metavar="ISO8601")
    build.add_argument("--seed", type=whole, default=0, metavar="S", help="of the random times")
    shape = build.add_argument_group("window (default: that of the configuration's model)")
    shape.add_argument("--rate", type=real, metavar="HZ")
    shape.add_argument("--samples", type=whole, default=500, metavar="N")
    shape.add_argument("--onset-sample", type=whole, default=100, metavar="K")
    shape.add_argument("--band", type=real, nargs=2, metavar=("LOW", "HIGH"), help="Hz")
    shape.add_argument("--corners", type=whole, default=4, metavar="N")
    shape.add_argument("--warmup", type=real, default=0.5, metavar="S", help="seconds before the window")
    shape.add_argument(
        "--components",
        nargs="+",
        default=["*"],
        metavar="C",
        help="of one sensor, as Z N E; default: each channel alone",
    )


def _build(options: argparse.Namespace) -> int:
    from tscc_stream.learn import dataset  # noqa: PLC0415  # loaded where it is needed
    from tscc_stream.learn.build_command import build_dataset  # noqa: PLC0415  # loaded where it is needed

    settings, folder = config_of(options)
    if options.paths == [Path("journal")]:
        return _build_from_journal(options, Path(settings.state_dir))
    if options.labels is not None:
        raise UsageError("dataset build: expected --labels verdicts only with --from journal")
    if (options.rate is None) != (options.band is None):
        raise UsageError("dataset build: expected --rate and --band together, or neither")
    if options.rate is None:
        shape = dataset.shape_of(package.load(package.find(settings.model, folder)).spec)
    else:
        low, high = options.band
        shape = dataset.WindowShape(
            options.rate,
            options.samples,
            options.onset_sample,
            (low, high),
            options.corners,
            options.warmup,
            len(options.components),
            tuple(options.components),
        )
    count = build_dataset(
        options.paths,
        options.out,
        settings,
        shape,
        random_windows=options.random,
        from_time=options.from_time,
        to_time=options.to_time,
        seed=options.seed,
    )
    print(f"{options.out}: {count} windows")
    return 0


def _build_from_journal(options: argparse.Namespace, configured: Path) -> int:
    from tscc_stream.learn import dataset, from_journal, stored  # noqa: PLC0415  # loaded where it is needed

    if options.state_dir is None and options.config is None:
        raise UsageError("dataset build --from journal: expected --state-dir DIR or --config FILE")
    with progress.bar("windows") as update:
        data = from_journal.read((options.state_dir or configured) / "journal.sqlite", update)
    if options.labels == "verdicts":
        data = dataset.by_verdict(data)
    stored.save(data, options.out)
    said = 0 if data.verdict is None else sum(data.verdict != "")
    print(f"{options.out}: {len(data)} windows" + (f", people said what {said} of them are" if said else ""))
    return 0


def _add_model(commands: Commands) -> None:
    parser = commands.add_parser("model", help="look at, check and name the clusters of a model package")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    show = add_command(actions, "show", "what a package says of itself", "model show models/rutford", _show)
    show.add_argument("model", metavar="DIR")
    verify = add_command(actions, "verify", "hashes and self-check", "model verify models/rutford", _verify)
    verify.add_argument("model", metavar="DIR")
    label = add_command(
        actions, "label", "name a cluster", 'model label models/rutford --cluster 1 --name "icequake"', _label
    )
    label.add_argument("model", metavar="DIR")
    label.add_argument("--cluster", type=whole, metavar="K")
    label.add_argument("--name")
    label.add_argument("--colour", metavar="#RRGGBB")
    label.add_argument("--notes")
    label.add_argument("--event-type", help="QuakeML event type")
    label.add_argument(
        "--from-site",
        action="store_true",
        help="instead: the names given at the site (--config), so that training keeps them",
    )
    label.add_argument("--config", type=Path, metavar="FILE")
    recompile = add_command(
        actions,
        "recompile",
        "bring a package to this version's compiled form; weights, clusters, names and calibration stay",
        "model recompile models/mine",
        _recompile,
    )
    recompile.add_argument("model", type=Path, metavar="DIR")
    reference = add_command(
        actions,
        "import-reference",
        "make a package, for evaluation only, of the TSCC authors' published weights",
        "model import-reference Finetuning_phase --centres Centers --out models/published",
        _import_reference,
    )
    reference.add_argument("weights", type=Path, metavar="WEIGHTS", help="what the authors' torch.save wrote")
    reference.add_argument("--centres", type=Path, required=True, metavar="FILE", help="their centres, likewise")
    reference.add_argument("--out", type=Path, required=True, metavar="DIR")
    site_models.add(actions)


def _show(options: argparse.Namespace) -> int:
    loaded = package.load(package.find(options.model))
    spec = loaded.spec
    channels = "1 channel" if spec.components == package.EACH_CHANNEL else f"components {' '.join(spec.components)}"
    print(f"{spec.name} {spec.version}, made {spec.created}, sha256 {loaded.sha256}")
    print(
        f"window: {spec.samples} samples at {spec.sample_rate_hz:g} Hz, onset at sample {spec.onset_sample}, "
        f"band {spec.band_hz[0]:g}-{spec.band_hz[1]:g} Hz, "
        f"{channels}, {spec.normalisation}"
    )
    calibrated = f"{spec.novelty.calibration_windows} windows" if spec.novelty else "none: no window is called unknown"
    print(f"{spec.distance} distance, fuzzifier {spec.fuzzifier:g}; novelty calibration: {calibrated}")
    if spec.evaluate_only:
        print(f"for evaluation only: {spec.evaluate_only}")
    for cluster in range(spec.clusters):
        found = loaded.labels.get(cluster)
        print(f"cluster {cluster}: {found.name} ({found.event_type}) {found.notes}" if found else f"cluster {cluster}")
    card = loaded.folder / "card.md"
    if card.is_file():
        print(f"\n{card.read_text(encoding='utf-8').rstrip()}")
    return 0


def _import_reference(options: argparse.Namespace) -> int:
    from tscc_stream.learn.reference import import_reference  # noqa: PLC0415 torch takes seconds

    made = import_reference(options.weights, options.centres, options.out)
    print(f"{options.out}: {made.spec.clusters} clusters, {made.sha256[:12]}, uncalibrated, for evaluation only")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from tscc_stream.edges.torchscript import TorchScriptEncoder  # noqa: PLC0415  # loaded where it is needed

    loaded = package.load(package.find(options.model))
    encoder = TorchScriptEncoder(loaded)
    print(f"{loaded.folder}: hashes and self-check hold on {encoder.device}")
    return 0


def _recompile(options: argparse.Namespace) -> int:
    from tscc_stream.learn.export import recompile  # noqa: PLC0415 torch takes seconds

    with progress.bar("recompile"):
        change = recompile(options.model)
    made = package.load(options.model)
    print(
        f"{made.folder}: compiled anew, memberships within {change:.1g} of the recorded ones, sha256 {made.sha256[:12]}"
    )
    return 0


def _label(options: argparse.Namespace) -> int:
    given = (options.cluster, options.name, options.colour, options.notes, options.event_type)
    if options.from_site:
        if options.config is None or any(one is not None for one in given):
            raise UsageError("model label: expected --from-site with --config FILE alone")
        return _label_from_site(options)
    if options.cluster is None or options.name is None:
        raise UsageError("model label: expected --cluster K with --name NAME, or --from-site with --config FILE")
    return _label_one(options)


def _label_from_site(options: argparse.Namespace) -> int:
    from tscc_stream.edges import people  # noqa: PLC0415  # loaded where it is needed
    from tscc_stream.names import given  # noqa: PLC0415  # loaded where it is needed

    loaded = package.load(package.find(options.model))
    settings, _ = config_of(options)
    path = Path(settings.state_dir) / people.FILE
    if not path.is_file():
        raise UsageError(f"{path}: no such file; nobody has named anything at this site yet")
    with closing(people.PeopleFile(path, read_only=True)) as file:
        found = {k: label for k, label in given(file, loaded.sha256).items() if 0 <= k < loaded.spec.clusters}
    package.write_labels(loaded.folder, loaded.labels | found)
    for cluster, one in sorted(found.items()):
        print(f"{loaded.folder}: cluster {cluster} is now {one.name}")
    if not found:
        print(f"{loaded.folder}: no cluster of this model ({loaded.sha256[:12]}) was named at the site")
    return 0


def _label_one(options: argparse.Namespace) -> int:
    from tscc_stream import names  # noqa: PLC0415  # loaded where it is needed
    from tscc_stream.edges.obspy_formats import event_types  # noqa: PLC0415 obspy takes a second

    loaded = package.load(package.find(options.model))
    if not 0 <= options.cluster < loaded.spec.clusters:
        raise UsageError(f"--cluster {options.cluster}: expected 0 to {loaded.spec.clusters - 1}")
    changed = {
        key: value for key in ("name", "colour", "notes", "event_type") if (value := getattr(options, key)) is not None
    }
    known = event_types()
    if options.event_type is not None and options.event_type not in known:
        raise UsageError(f"--event-type {options.event_type}: expected one of QuakeML's: {', '.join(known)}")
    before = {} if (there := loaded.labels.get(options.cluster)) is None else there.model_dump()
    try:
        label = names.label_of({**before, **changed})
    except names.NameRefusedError as error:
        raise UsageError(f"model label: {error}") from error
    package.write_labels(loaded.folder, {**loaded.labels, options.cluster: label})
    print(f"{loaded.folder}: cluster {options.cluster} is now {label.name}")
    if same := names.told_same_name(loaded, options.cluster, label.name):
        print(f"{PROGRAM}: warning: {same}", file=sys.stderr)
    return 0
