"""Published weights: taken over to the last bit, and nothing that a pickle says is ever carried out."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import types
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel

from tscc_stream import cli, package, pickled
from tscc_stream.edges.torchscript import TorchScriptEncoder
from tscc_stream.learn.latent import encoder_of
from tscc_stream.learn.network import Encoder, make_encoder, pool
from tscc_stream.learn.reference import WeightsError, import_reference
from tscc_stream.package import PackageError
from tscc_stream.pickled import Module, PickledError, StoredTensor

REFERENCE = Path(os.environ.get("TSCC_TEST_DATA", Path(__file__).parents[2] / "shared" / "data")) / "tscc_reference"
WEIGHTS, CENTRES = "Micrseismic_Timeseries_Finetuning_phase", "Micrseismic_Timeseries_Centers"
published = pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"the published weights are not at {REFERENCE}")


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, type[nn.Module]]:
    """Empty classes under the names that the published pickles hold, importable while something is pickled."""
    made: dict[str, type[nn.Module]] = {}
    monkeypatch.setitem(sys.modules, "models", types.ModuleType("models"))
    for module, classes in (
        ("models.encoder", ("TSEncoder",)),
        ("models.dilated_conv", ("DilatedConvEncoder", "ConvBlock", "SamePadConv")),
    ):
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
        for name in classes:
            made[name] = type(name, (nn.Module,), {"__module__": module})
            setattr(sys.modules[module], name, made[name])
    return made


def _shaped_as_published(encoder: Encoder, names: dict[str, type[nn.Module]]) -> nn.Module:
    """The same weights in objects of the published names."""
    blocks = []
    for ours in encoder.blocks:
        block = names["ConvBlock"]()
        for name in ("conv1", "conv2"):
            same = names["SamePadConv"]()
            conv = getattr(ours, name)
            same.conv = nn.Conv1d(conv.in_channels, conv.out_channels, 3)
            same.conv.weight, same.conv.bias, same.remove = conv.weight, conv.bias, 0
            setattr(block, name, same)
        block.projector = ours.residual if isinstance(ours.residual, nn.Conv1d) else None
        blocks.append(block)
    root = names["TSEncoder"]()
    root.input_fc = encoder.projection
    root.feature_extractor = names["DilatedConvEncoder"]()
    root.feature_extractor.net = nn.Sequential(*blocks)
    root.repr_dropout = nn.Dropout(0.1)
    return root


def _save(value: object, path: Path, **how: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch looks for the source text of our made-up classes
        torch.save(value, path, **how)
    return path


def _state() -> OrderedDict[str, torch.Tensor]:
    renames = (("projection", "input_fc"), ("blocks", "feature_extractor.net"), ("residual", "projector"))
    state: OrderedDict[str, torch.Tensor] = OrderedDict()
    for name, value in make_encoder(7, 1).state_dict().items():
        for ours, theirs in (*renames, ("conv1", "conv1.conv"), ("conv2", "conv2.conv")):
            name = name.replace(ours, theirs)  # noqa: PLW2901  # the name under which it is stored
        state[name] = value
    return state


def _centres(clusters: int = 3, dimensions: int = 32) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal((clusters, dimensions)).astype(np.float32))


def _imports(weights: Path, tmp_path: Path, centres: torch.Tensor | None = None) -> package.Package:
    saved = _save(_centres() if centres is None else centres, tmp_path / "centres")
    return import_reference(weights, saved, tmp_path / "out" / "reference")


def _same_network(made: package.Package) -> None:
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((2, 500, 1)).astype(np.float32))
    encoder = make_encoder(7, 1)
    with torch.no_grad():
        expected = pool(encoder(x))
        got = torch.jit.load(made.folder / "encoder.ts")(x)
    torch.testing.assert_close(got[0], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got[3], torch.cdist(expected, _centres()).square(), atol=1e-3, rtol=1e-4)


FORMS: dict[str, Callable[[dict[str, type[nn.Module]]], object]] = {
    "encoder": lambda names: _shaped_as_published(make_encoder(7, 1), names),
    "state_dict": lambda _: _state(),
    "averaged": lambda names: AveragedModel(_shaped_as_published(make_encoder(7, 1), names)),
    "averaged state_dict": lambda names: AveragedModel(_shaped_as_published(make_encoder(7, 1), names)).state_dict(),
}
HOWS = {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}, "protocol 4": {"pickle_protocol": 4}}


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("how", list(HOWS))
def test_every_form_of_the_same_weights_gives_the_same_network(
    form: str, how: str, names: dict[str, type[nn.Module]], tmp_path: Path
) -> None:
    _same_network(_imports(_save(FORMS[form](names), tmp_path / "w", **HOWS[how]), tmp_path))


def test_the_package_says_what_it_is_and_serves_no_stream(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, centres, out = tmp_path / "w", tmp_path / "c", tmp_path / "published"
    _save(_state(), weights)
    _save(_centres(), centres)
    assert cli.main(["model", "import-reference", str(weights), "--centres", str(centres), "--out", str(out)]) == 0
    assert "3 clusters" in capsys.readouterr().out
    spec = package.load(out).spec
    assert (spec.samples, spec.channels, spec.embedding, spec.fuzzifier) == (500, 1, 32, 1.5)
    assert (spec.normalisation, spec.novelty, spec.distance) == ("none", None, "euclidean")
    assert spec.training_data["licence"] == "none: evaluate only"
    assert spec.training_data["weights_sha256"] == package.sha256_of(weights)
    assert "Evaluate only" in (out / "card.md").read_text()
    TorchScriptEncoder(package.load(out), "cpu", 1)
    assert cli.main(["model", "show", str(out)]) == 0
    assert "for evaluation only: published weights" in capsys.readouterr().out
    with pytest.raises(PackageError, match="for evaluation only: published weights"):
        package.load_live(out)
    assert cli.main(["classify", str(tmp_path), "--model", str(out)]) == 1
    assert "for evaluation only" in capsys.readouterr().err


@pytest.mark.data
@published
def test_the_published_files_give_the_published_representations(tmp_path: Path) -> None:
    made = import_reference(REFERENCE / WEIGHTS, REFERENCE / CENTRES, tmp_path / "published")
    module = torch.jit.load(made.folder / "encoder.ts")
    with np.load(REFERENCE / "finetuning_expected.npz") as expected, torch.no_grad():
        embedding = module(torch.from_numpy(expected["x"]))[0].numpy()
        assert np.abs(embedding - expected["embedding"]).max() < 1e-5
        x = np.load(REFERENCE / "Eval_Syn_Data.npy").astype(np.float32)[:, :, np.newaxis]
        r_btd = encoder_of(made)(torch.from_numpy(x)).numpy()
    assert np.abs(r_btd - np.load(REFERENCE / "Eval_Syn_Representations.npy")).max() < 1e-5
    assert np.array_equal(module.centres.numpy(), np.asarray(pickled_centres()))


def pickled_centres() -> np.ndarray:
    stored = pickled.read(REFERENCE / CENTRES)
    assert isinstance(stored.value, StoredTensor)
    return stored.array(stored.value)


class Reduces:
    """Pickles as a call of whatever it is told."""

    def __init__(self, call: object, *arguments: object, state: object = None) -> None:
        self.told = (call, arguments, state) if state is not None else (call, arguments)

    def __reduce__(self) -> Any:
        return self.told


def _evil_calls(sentinel: Path) -> dict[str, tuple[object, str]]:
    code = f"open({str(sentinel)!r}, 'w')"
    write = f"touch {sentinel}"
    hooked = Reduces(torch._utils._rebuild_tensor_v2, Reduces(eval, code), 0, (1,), (1,), False, OrderedDict())
    return {
        "os.system": (Reduces(os.system, write), "posix.system"),
        "eval": (Reduces(eval, code), "__builtin__.eval"),
        "getattr": (Reduces(getattr, Path(sentinel), "touch"), "__builtin__.getattr"),
        "open": (Reduces(open, str(sentinel), "w"), "io.open"),
        "subprocess": (Reduces(subprocess.Popen, ["touch", str(sentinel)]), r"\w+.Popen"),
        "torch.load": (Reduces(torch.load, str(sentinel)), "torch.serialization.load"),
        "torch's jit": (Reduces(torch.jit.load, str(sentinel)), "torch.jit._serialization.load"),
        "in a hook": ({"a": hooked}, "__builtin__.eval"),
        "in a set": ({"a": Reduces(set, [Reduces(eval, code)])}, "__builtin__.eval"),
        "deep within": ({"a": [{"b": (1, Reduces(eval, code))}]}, "__builtin__.eval"),
        "in what a dictionary carries": (Reduces(OrderedDict, state={"a": Reduces(eval, code)}), "__builtin__.eval"),
        "a numpy array": (np.zeros(3), "numpy"),
        "a listed module, an unlisted name": (Reduces(torch._utils._rebuild_sparse_tensor, 1, 2), "torch._utils._rebu"),
    }


@pytest.mark.parametrize("which", list(_evil_calls(Path("x"))))
@pytest.mark.parametrize("how", list(HOWS))
@pytest.mark.parametrize("place", ["weights", "centres"])
def test_any_other_name_is_refused_by_that_name_and_nothing_of_it_ran(
    which: str, how: str, place: str, tmp_path: Path
) -> None:
    sentinel = tmp_path / "it ran"
    value, name = _evil_calls(sentinel)[which]
    if how == "protocol 4":
        name = name.replace("__builtin__", "builtins")
    evil, good = _save(value, tmp_path / "evil", **HOWS[how]), _save(_state(), tmp_path / "good")
    with pytest.raises(PickledError, match=f"evil: its pickle names {name}.* nothing was run"):
        import_reference(*((evil, good) if place == "weights" else (good, evil)), tmp_path / "out")
    assert not sentinel.exists()
    assert not (tmp_path / "out").exists()


def _zip(path: Path, program: bytes, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)
    return path


SYSTEM = b"cposix\nsystem\n"
ORDERED = b"ccollections\nOrderedDict\n"
CONV = b"ctorch.nn.modules.conv\nConv1d\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
FLOATS = b"ctorch\nFloatStorage\n"
STORAGE = b"(X\x07\x00\x00\x00storage" + FLOATS + b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
HAND_MADE = {
    "INST of a foreign name": (b"(X\x01\x00\x00\x00aiposix\nsystem\n.", "names posix.system"),
    "INST of a known name": (b"(icollections\nOrderedDict\n.", "instruction INST"),
    "OBJ": (b"(" + ORDERED + b"o.", "instruction OBJ"),
    "an extension code": (b"\x82\x01.", "instruction EXT1"),
    "a persistent id in text": (b"Pos.system\n.", "instruction PERSID"),
    "a persistent id that is a name": (b"X\x07\x00\x00\x00storageQ.", "refers to something outside"),
    "a persistent id with a name within": (b"(X\x07\x00\x00\x00storage" + SYSTEM + b"tQ.", "names posix.system"),
    "a persistent id within a persistent id": (b"(" + STORAGE + b"tQ.", "refers to something outside"),
    "a module's class that is none": (b"(X\x06\x00\x00\x00module" + ORDERED + b"tQ.", "refers to something outside"),
    "a name from the stack": (b"\x80\x04\x8c\x05posix\x8c\x06system\x93.", "names posix.system"),
    "a call of a class of modules": (CONV + b")R.", "calls torch.nn.modules.conv.Conv1d"),
    "a call with arguments": (ORDERED + b"(K\x01tR.", "calls collections.OrderedDict"),
    "a new dictionary by its class": (ORDERED + b")\x81.", "makes an object"),
    "a new module with arguments": (CONV + b"K\x01\x85\x81.", "makes an object"),
    "a call of a number": (b"K\x01)R.", "makes no sense"),
    "attributes of a name": (CONV + b"}X\x01\x00\x00\x00aK\x01sb.", "makes no sense"),
    "attributes that are no dictionary": (CONV + b")\x81K\x01b.", "makes no sense"),
    "a tuple as key": (b"})K\x01s.", "makes no sense"),
    "items of no dictionary": (b"](K\x01K\x02u.", "makes no sense"),
    "parts of no list": (b"}K\x01a.", "makes no sense"),
    "a memo that was never made": (b"h\x05.", "makes no sense"),
    "more than there is": (b"K\x01\x86.", "makes no sense"),
    "below a mark": (b"K\x01K\x02(\x86.", "makes no sense"),
    "two results": (b"K\x01K\x02.", "makes no sense"),
    "no end": (b"K\x01", "makes no sense"),
    "no instruction": (b"\xff", "makes no sense"),
    "a parameter of no tensor": (b"ctorch._utils\n_rebuild_parameter\n(K\x01tR.", "calls torch._utils._rebuild_par"),
    "a tensor of a number": (REBUILD + b"(K\x01K\x00K\x01\x85K\x01\x85tR.", "makes no sense"),
    "a tensor before its storage": (REBUILD + b"(" + STORAGE + b"J\xff\xff\xff\xffK\x01\x85K\x01\x85tR.", "no sense"),
    "a tensor with steps to spare": (REBUILD + b"(" + STORAGE + b"K\x00K\x01\x85K\x01K\x01\x86tR.", "makes no sense"),
    "a tensor without limits": (
        REBUILD + b"(" + STORAGE + b"K\x00J\x00\x00\x00\x02J\x00\x00\x00\x02\x86K\x00K\x00\x86tR.",
        "makes no sense",
    ),
}


@pytest.mark.parametrize("which", list(HAND_MADE))
def test_programs_that_torch_never_writes_are_refused(which: str, tmp_path: Path) -> None:
    program, words = HAND_MADE[which]
    with pytest.raises(PickledError, match=words):
        pickled.read(_zip(tmp_path / "w", program))


def test_what_is_refused_by_name_is_refused_before_what_follows(tmp_path: Path) -> None:
    with pytest.raises(PickledError, match=r"names posix\.system"):
        pickled.read(_zip(tmp_path / "w", SYSTEM + b"X\x04\x00\x00\x00true\x85R\xff rubbish"))


def test_one_storage_may_be_seen_in_many_ways(tmp_path: Path) -> None:
    numbers = torch.arange(24, dtype=torch.float64)
    views = {"turned": numbers.reshape(4, 6).T, "part": numbers[5:9], "kept": torch.tensor(3), "whole": numbers}
    for how in HOWS.values():
        stored = pickled.read(_save(views, tmp_path / "w", **how))
        assert isinstance(stored.value, dict)
        for name, view in views.items():
            assert np.array_equal(stored.array(stored.value[name]), view.numpy()), name


@pytest.mark.parametrize(
    ("shape", "strides", "content", "words"),
    [
        (b"K\x05\x85", b"K\x01\x85", b"\0" * 16, r"a tensor \[5\] reaches beyond its storage of 4 numbers"),
        (b"K\x02\x85", b"K\x04\x85", b"\0" * 16, r"a tensor \[2\] reaches beyond"),
        (b"K\x00\x85", b"K\x01\x85", b"\0" * 16, r"a tensor \[0\] reaches beyond"),
        (b"K\x04\x85", b"K\x01\x85", b"\0" * 15, "storage 0 holds 15 bytes, not the 4 numbers stated"),
    ],
)
def test_a_tensor_stays_within_its_storage(
    shape: bytes, strides: bytes, content: bytes, words: str, tmp_path: Path
) -> None:
    program = REBUILD + b"(" + STORAGE + b"K\x00" + shape + strides + b"tR."
    stored = pickled.read(_zip(tmp_path / "w", program, **{"data/0": content}))
    assert isinstance(stored.value, StoredTensor)
    with pytest.raises(PickledError, match=words):
        stored.array(stored.value)


def _zips(path: Path) -> Iterator[tuple[Path, str]]:
    yield _zip(path, b"N.", byteorder=b"big"), "big-endian"
    yield _zip(path, b"N." + b" " * 10, **{"other/data.pkl": b"N."}), "2 files data.pkl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", b"")
    yield path, "0 files data.pkl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"N" * 1000)
    yield path, "compressed or encrypted"
    yield _zip(path, b"N" * ((1 << 20) + 1)), "a pickle of more than 1024 KiB"
    content = bytearray(_zip(path, b"K\x01.").read_bytes())
    content[content.index(b"K\x01.")] = 0x4E  # the check sum is now wrong
    path.write_bytes(content)
    yield path, "truncated or damaged at archive/data.pkl"
    path.write_bytes(b"PK" + b"\0" * 40)
    yield path, "truncated or damaged: no readable zip"
    path.write_bytes(b"\x93NUMPY")
    yield path, "not a file that torch.save wrote"
    path.write_bytes(pickle.dumps({"a": 1}, protocol=2))
    yield path, "a pickle, but not one that torch.save wrote"
    path.unlink()
    yield path, "No such file or directory"


def test_files_that_are_something_else_are_refused_in_one_sentence(tmp_path: Path) -> None:
    for path, words in _zips(tmp_path / "w"):
        with pytest.raises(PickledError, match=words) as refused:
            pickled.read(path)
        assert str(refused.value).startswith(f"{path}: ")
        assert "\n" not in str(refused.value)


def test_a_large_file_is_not_even_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _save(_centres(), tmp_path / "w")
    monkeypatch.setattr(pickled, "FILE_LIMIT", 1000)
    with pytest.raises(PickledError, match="more than 0 MiB"):
        pickled.read(path)


def test_a_storage_that_is_not_there(tmp_path: Path) -> None:
    program = REBUILD + b"(" + STORAGE + b"K\x00K\x04\x85K\x01\x85tR."
    stored = pickled.read(_zip(tmp_path / "w", program))
    with pytest.raises(PickledError, match="archive/data/0 is missing"):
        stored.array(stored.value)  # type: ignore[arg-type]  # options of any kind


def _legacy(system: object, value: object, keys: object) -> bytes:
    parts = (0x1950A86A20F9469CFC6C, 1001, system, value, keys)
    return b"".join(pickle.dumps(part, protocol=2) for part in parts)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_legacy({"little_endian": False}, None, []), "big-endian"),
        (_legacy([], None, []), "big-endian"),
        (_legacy({"little_endian": True}, None, ["0"]), "its storages are not those"),
        (_legacy({"little_endian": True}, None, [0]), "its storages are not those"),
    ],
)
def test_legacy_files_are_looked_at_as_closely(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(PickledError, match=words):
        pickled.read(tmp_path / "w")


def test_a_legacy_file_that_keeps_no_list_of_storages_has_none(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(_legacy({"little_endian": True}, {"a": 1}, None))
    assert pickled.read(tmp_path / "w").value == {"a": 1}


@pytest.mark.parametrize("how", ["zip", "legacy"])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_cut_or_damaged_files_are_refused_or_read_and_nothing_else(
    how: str, tmp_path: Path, data: st.DataObject
) -> None:
    saved = io.BytesIO()
    torch.save(OrderedDict(a=_centres(), b=torch.zeros(3)), saved, **HOWS[how])
    content = bytearray(saved.getvalue())
    content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    for at in data.draw(st.lists(st.integers(0, max(0, len(content) - 1)), max_size=4)) if content else []:
        content[at] = data.draw(st.integers(0, 255))
    (tmp_path / "w").write_bytes(content)
    try:
        stored = pickled.read(tmp_path / "w")
        for tensor in stored.value.values() if isinstance(stored.value, dict) else []:
            if isinstance(tensor, StoredTensor):
                stored.array(tensor)
    except PickledError as error:
        assert "\n" not in str(error)  # noqa: PT017 both ends are right


def _without(name: str) -> OrderedDict[str, torch.Tensor]:
    state = _state()
    del state[name]
    return state


def _with(name: str, value: object) -> dict[str, Any]:
    return {**_state(), name: value}


BIAS = "feature_extractor.net.3.conv1.conv.bias"
WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "missing": (lambda: _without(BIAS), r"tensor blocks\.3\.conv1\.bias is missing, as are 0 others"),
    "foreign": (lambda: _with("head.weight", torch.zeros(3)), "tensor head.weight is none of the published encoder's"),
    "extra": (
        lambda: _with("feature_extractor.net.11.conv1.conv.bias", torch.zeros(32)),
        r"tensor blocks\.11\.conv1\.bias is more than the published encoder has",
    ),
    "shape": (lambda: _with(BIAS, torch.zeros(65)), r"tensor blocks\.3\.conv1\.bias is \[65\]; expected \[64\]"),
    "endless": (lambda: _with(BIAS, torch.zeros(1).expand(1 << 25)), r"is \[33554432\]; expected \[64\]"),
    "not finite": (lambda: _with(BIAS, torch.full((64,), torch.nan)), r"blocks\.3\.conv1\.bias holds values that are"),
    "no tensors": (lambda: {"epoch": 3}, "holds no encoder"),
    "nothing": (dict, "holds no encoder"),
    "a number": (lambda: 5, "holds no encoder"),
}


@pytest.mark.parametrize("which", list(WRONG))
def test_weights_that_do_not_fit_are_refused_in_one_sentence(which: str, tmp_path: Path) -> None:
    value, words = WRONG[which]
    with pytest.raises(WeightsError, match=words):
        _imports(_save(value(), tmp_path / "w"), tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("centres", "words"),
    [
        (_centres(3, 31), r"centres are \[3, 31\]; expected \[2 to 256, 32\]"),
        (_centres(1), r"centres are \[1, 32\]"),
        (torch.zeros(32), r"centres are \[32\]"),
        (torch.full((2, 32), torch.inf), "centres holds values that are not finite"),
        ({"centres": 3}, "holds no centres: expected one tensor"),
    ],
)
def test_centres_that_do_not_fit_are_refused_in_one_sentence(centres: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=words):
        _imports(_save(_state(), tmp_path / "w"), tmp_path, centres)


def test_a_module_without_its_parts_or_with_itself_inside_is_refused(
    names: dict[str, type[nn.Module]], tmp_path: Path
) -> None:
    bare = _zip(tmp_path / "w", b"cmodels.encoder\nTSEncoder\n)\x81}X\x01\x00\x00\x00aK\x01sb.")
    with pytest.raises(WeightsError, match=r"a models\.encoder\.TSEncoder without _parameters"):
        _imports(bare, tmp_path)
    loop = names["TSEncoder"]()
    loop._modules["again"] = loop
    with pytest.raises(WeightsError, match="more than 500 modules"):
        _imports(_save(loop, tmp_path / "w"), tmp_path)
    wide = names["TSEncoder"]()
    wide._modules.update({str(i): None for i in range(501)})
    with pytest.raises(WeightsError, match="more than 500 modules"):
        _imports(_save(wide, tmp_path / "w"), tmp_path)
    odd = names["TSEncoder"]()
    odd._parameters["a" * 101] = nn.Parameter(torch.zeros(1))
    with pytest.raises(WeightsError, match="not a module as torch stores it"):
        _imports(_save(odd, tmp_path / "w"), tmp_path)


def test_what_was_read_of_a_module_is_its_name_and_its_attributes(
    names: dict[str, type[nn.Module]], tmp_path: Path
) -> None:
    root = names["TSEncoder"]()
    root.input_dims = 1
    stored = pickled.read(_save(root, tmp_path / "w"))
    assert isinstance(stored.value, Module)
    assert (stored.value.of, stored.value.state["input_dims"]) == ("models.encoder.TSEncoder", 1)
