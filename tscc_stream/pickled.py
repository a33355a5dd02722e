"""What `torch.save` wrote, as plain values, without running anything.

A pickle is a program: its instructions look names up and call them. Here they are read one by one (`pickletools`) and
carried out on inert values only. No name is ever looked up, nothing is ever called: a name is two words that must
stand in the list below, and anything else is refused by that name before any instruction after it is read.

Files: the zip archive of torch since 1.6, and the legacy run of pickles before it. Format: torch/serialization.py.
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tscc_stream.messages import AnyArray

FILE_LIMIT = 64 << 20
"""Bytes of a file; the published weights have one million."""
PICKLE_LIMIT = 1 << 20
"""Bytes of instructions; the published weights have 17 thousand."""

_DAMAGE = (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, OverflowError)
"""What zipfile raises of broken files, beside its own errors: names that are no text, places before the start."""
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_STORED_TYPES = {"torch.FloatStorage": "<f4", "torch.DoubleStorage": "<f8", "torch.LongStorage": "<i8"}
_DICTIONARIES = frozenset({"collections.OrderedDict"})
_SETS = frozenset({"__builtin__.set", "builtins.set"})
_REBUILD_TENSOR, _REBUILD_PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
_MODULES = frozenset(
    {
        "models.encoder.TSEncoder",
        "models.dilated_conv.DilatedConvEncoder",
        "models.dilated_conv.ConvBlock",
        "models.dilated_conv.SamePadConv",
        "torch.nn.modules.linear.Linear",
        "torch.nn.modules.container.Sequential",
        "torch.nn.modules.container.ModuleList",
        "torch.nn.modules.conv.Conv1d",
        "torch.nn.modules.dropout.Dropout",
        "torch.optim.swa_utils.AveragedModel",
    }
)
_KNOWN = _MODULES | _DICTIONARIES | _SETS | set(_STORED_TYPES) | {_REBUILD_TENSOR, _REBUILD_PARAMETER}


class PickledError(ValueError):
    """A file that is not what it should be, or wants what it must not have; in one sentence."""


@dataclass(frozen=True, slots=True)
class Name:
    """A name that stood in a pickle, and nothing but the name."""

    full: str


@dataclass(slots=True, eq=False)
class Module:
    """An object of a listed class: its name, and the attributes that were stored with it."""

    of: str
    state: dict[str | int, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Storage:
    """Raw numbers that lie beside the pickle: numpy type, key, how many."""

    kind: str
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A view of a storage: first element, extent and step (in elements) along each axis."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Stored:
    """A file's content: `value` made of dictionaries, lists, Modules and StoredTensors; `array` reads one of these."""

    def __init__(self, value: object, raw: Callable[[str], bytes]) -> None:
        self.value = value
        self._raw = raw

    def array(self, tensor: StoredTensor) -> AnyArray:
        """The tensor's numbers, copied. Look at its shape first: a view may repeat few numbers very often."""
        storage = tensor.storage
        numbers = self._raw(storage.key)
        if len(numbers) != storage.count * np.dtype(storage.kind).itemsize:
            raise PickledError(
                f"storage {storage.key} holds {len(numbers)} bytes, not the {storage.count} numbers stated"
            )
        flat = np.frombuffer(numbers, storage.kind)
        last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
        if 0 in tensor.shape or last >= flat.size:
            raise PickledError(f"a tensor {list(tensor.shape)} reaches beyond its storage of {flat.size} numbers")
        steps = tuple(step * flat.itemsize for step in tensor.strides)
        view: AnyArray = np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, steps, writeable=False)
        return view.copy()


def read(path: Path) -> Stored:
    """A file of `torch.save`. Raises PickledError, with the file's name, where it cannot or must not be read."""
    try:
        if path.stat().st_size > FILE_LIMIT:
            raise PickledError(f"more than {FILE_LIMIT >> 20} MiB")
        return _read(path.read_bytes())
    except OSError as error:
        raise PickledError(f"{path}: {error.strerror}") from error
    except PickledError as error:
        raise PickledError(f"{path}: {error}") from error


def _read(content: bytes) -> Stored:
    if content.startswith(b"PK"):
        return _read_zip(content)
    if content.startswith(b"\x80"):
        return _read_legacy(content)
    raise PickledError("not a file that torch.save wrote")


def _read_zip(content: bytes) -> Stored:
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except _DAMAGE as error:
        raise PickledError("truncated or damaged: no readable zip") from error
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise PickledError(f"a zip with {len(pickles)} files data.pkl; torch.save writes one")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in archive.namelist() and _member(archive, f"{folder}byteorder") != b"little":
        raise PickledError("its numbers are big-endian; expected little-endian")
    program = io.BytesIO(_member(archive, pickles[0]))
    return Stored(_run(program), lambda key: _member(archive, f"{folder}data/{key}"))


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member that is stored as it is, as torch does: what cannot be larger than the file needs no other limit."""
    if name not in archive.namelist():
        raise PickledError(f"{name[:80]} is missing")
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size > FILE_LIMIT:
        raise PickledError(f"{name[:80]} is compressed or encrypted; torch.save stores it as it is")
    try:
        return archive.read(info)
    except _DAMAGE as error:
        raise PickledError(f"truncated or damaged at {name[:80]}") from error


def _read_legacy(content: bytes) -> Stored:
    """Four pickles (magic number, protocol, system, object), a fifth with the storages' keys, then their numbers."""
    stream = io.BytesIO(content)
    if _run(stream) != _LEGACY_MAGIC or _run(stream) != _LEGACY_PROTOCOL:
        raise PickledError("a pickle, but not one that torch.save wrote")
    system = _run(stream)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise PickledError("its numbers are big-endian; expected little-endian")
    sizes: dict[str, int] = {}
    value, keys = _run(stream, sizes), _run(stream)
    storages = {key: _legacy_numbers(stream, sizes, key) for key in (keys if isinstance(keys, list) else [])}
    return Stored(value, lambda key: storages.get(key, b""))


def _legacy_numbers(stream: io.BytesIO, sizes: dict[str, int], key: object) -> bytes:
    count = int.from_bytes(stream.read(8), "little", signed=True)
    if not isinstance(key, str) or key not in sizes or not 0 <= count <= FILE_LIMIT:
        raise PickledError("truncated or damaged: its storages are not those that its pickle names")
    return stream.read(count * sizes[key])


def _run(stream: io.BytesIO, sizes: dict[str, int] | None = None) -> object:
    """What one pickle says, of at most PICKLE_LIMIT bytes; sizes: filled with bytes per number of each storage."""
    begin, machine = stream.tell(), _Machine({} if sizes is None else sizes)
    at = 0
    try:
        for opcode, argument, position in pickletools.genops(stream):
            at = (position or 0) - begin
            if stream.tell() - begin > PICKLE_LIMIT:
                raise PickledError(f"a pickle of more than {PICKLE_LIMIT >> 10} KiB")
            machine.step(opcode.name, argument)
        return machine.result()
    except PickledError:
        raise
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, MemoryError) as error:
        raise PickledError(f"truncated or damaged: its pickle makes no sense at or after byte {at}") from error


class _Machine:
    """The instructions of a pickle, on inert values: stack, places of open marks, memo."""

    def __init__(self, sizes: dict[str, int]) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[object, Any] = {}
        self._sizes = sizes

    def step(self, name: str, argument: object) -> None:
        if name in _PLAIN:
            self._stack.append(argument)
        elif name in _FRESH:
            self._stack.append(_FRESH[name]())
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self._memo[argument] = self._stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            self._stack.append(self._memo[argument])
        elif name in _STEPS:
            _STEPS[name](self, argument)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise PickledError(f"its pickle holds the instruction {name}, which no tensors need")

    def result(self) -> object:
        value: object
        (value,) = self._stack or [None]
        return value

    def _pop(self, n: int) -> list[Any]:
        """The topmost n values, in the order in which they were pushed; none from below an open mark."""
        first = len(self._stack) - n
        if first < (self._marks[-1] if self._marks else 0):
            raise IndexError
        taken, self._stack[first:] = self._stack[first:], []
        return taken

    def _to_mark(self) -> list[Any]:
        first = self._marks.pop()
        taken, self._stack[first:] = self._stack[first:], []
        return taken

    def _mark(self, _: object) -> None:
        self._marks.append(len(self._stack))

    def _memoize(self, _: object) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _name(self, argument: str) -> None:
        """GLOBAL: `module name` in one text, as pickletools hands it over."""
        self._named(*argument.split(" ", 1))

    def _stack_name(self, _: object) -> None:
        module, name = self._pop(2)
        self._named(str(module), str(name))

    def _named(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if full not in _KNOWN:
            raise PickledError(
                f"its pickle names {full[:80]}, which no published weights need: refused, nothing was run"
            )
        self._stack.append(Name(full))

    def _instance(self, argument: str) -> None:
        """INST: a name, and a call of it, in one instruction."""
        self._name(argument)
        raise PickledError("its pickle holds the instruction INST, which no tensors need")

    def _tuple(self, n: int | None) -> None:
        self._stack.append(tuple(self._to_mark() if n is None else self._pop(n)))

    def _append(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise TypeError
        target.extend(values)

    def _set_items(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict):
            raise TypeError
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str | int):  # tuples within tuples would be hashed without end
                raise TypeError
            target[key] = value

    def _persistent(self, _: object) -> None:
        (reference,) = self._pop(1)
        match reference:
            case ("storage", Name(full=kind), str(key), str(), int(count), *view) if (
                kind in _STORED_TYPES and count >= 0 and view in ([], [None])
            ):
                numbers = _STORED_TYPES[kind]
                self._sizes[key] = np.dtype(numbers).itemsize
                self._stack.append(Storage(numbers, key, count))
            case ("module", Name(full=of) as module, *_) if of in _MODULES:  # legacy: a class beside its source text
                self._stack.append(module)
            case _:
                raise PickledError("its pickle refers to something outside that is no storage of numbers")

    def _call(self, _: object) -> None:
        """REDUCE: only what makes dictionaries, sets and tensors, by us."""
        called, arguments = self._pop(2)
        if not isinstance(called, Name) or not isinstance(arguments, tuple):
            raise TypeError
        if called.full in _DICTIONARIES and not arguments:
            self._stack.append({})
        elif called.full in _SETS:
            self._stack.append([])  # torch keeps names of buffers in sets; none of them is wanted
        elif called.full == _REBUILD_TENSOR:
            self._stack.append(_tensor(*arguments[:4]))
        elif called.full == _REBUILD_PARAMETER and isinstance(arguments[0], StoredTensor):
            self._stack.append(arguments[0])
        else:
            raise PickledError(f"its pickle calls {called.full}, which published weights do not")

    def _new(self, _: object) -> None:
        made, arguments = self._pop(2)
        if not isinstance(made, Name) or made.full not in _MODULES or arguments != ():
            raise PickledError("its pickle makes an object that published weights do not hold")
        self._stack.append(Module(made.full))

    def _build(self, _: object) -> None:
        (state,) = self._pop(1)
        target = self._stack[-1]
        if not isinstance(state, dict):
            raise TypeError
        if isinstance(target, Module):
            target.state = state
        elif not isinstance(target, dict):  # what a dictionary carries besides (versions of modules) is not wanted
            raise TypeError


def _tensor(storage: object, offset: object, shape: object, strides: object) -> StoredTensor:
    extent, steps = _whole(shape), _whole(strides)
    (first,) = _whole((offset,))
    if not isinstance(storage, Storage):
        raise TypeError
    if len(extent) != len(steps) or len(extent) > 4 or math.prod(extent) > FILE_LIMIT:
        raise ValueError
    return StoredTensor(storage, first, extent, steps)


def _whole(numbers: object) -> tuple[int, ...]:
    if not isinstance(numbers, tuple) or not all(isinstance(n, int) and 0 <= n <= FILE_LIMIT for n in numbers):
        raise TypeError
    return numbers


_PLAIN = frozenset(
    {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
)
_FRESH: dict[str, Callable[[], object]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine._mark,
    "MEMOIZE": _Machine._memoize,
    "GLOBAL": _Machine._name,
    "STACK_GLOBAL": _Machine._stack_name,
    "INST": _Machine._instance,
    "TUPLE": lambda machine, _: machine._tuple(None),
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "APPEND": lambda machine, _: machine._append(machine._pop(1)),
    "APPENDS": lambda machine, _: machine._append(machine._to_mark()),
    "ADDITEMS": lambda machine, _: machine._append(machine._to_mark()),
    "SETITEM": lambda machine, _: machine._set_items(machine._pop(2)),
    "SETITEMS": lambda machine, _: machine._set_items(machine._to_mark()),
    "BINPERSID": _Machine._persistent,
    "REDUCE": _Machine._call,
    "NEWOBJ": _Machine._new,
    "BUILD": _Machine._build,
}
