"""Example inputs from the command line: files, fixed shapes, and random values for the rest."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import onnx_ir as ir
import torch

from ..capture import make_inputs
from ..errors import InvalidInput, InvalidModel
from .cli_facts import real_inputs

Dims = tuple[int | str, ...]


@dataclass(frozen=True)
class GivenInputs:
    """What the options said about inputs.

    Attributes:
        files: "name=file.npy" entries (the name may be left out for a model with one input).
        archive: an .npz file with an array for each input.
        shapes: "name:1,3,224,224" entries.
        seed: of the random values.
        symbolic: extent of symbolic dimensions that nothing fixes.
    """

    files: Sequence[str] = ()
    archive: Path | None = None
    shapes: Sequence[str] = ()
    seed: int = 0
    symbolic: int = 2

    @property
    def are_real(self) -> bool:
        """Whether all or some of the inputs come from files."""
        return bool(self.files) or self.archive is not None

    def tensors(self, values: Sequence[ir.Value]) -> dict[str, torch.Tensor]:
        """A tensor for each of these model inputs, by name and in their order.

        Raises:
            InvalidInput: a file cannot be read, a name is unknown, a shape does not fit.
        """
        arrays, shapes = self._arrays(values), self._shapes(values)
        given = {name: array.shape for name, array in arrays.items()} | shapes
        fixed = _resolved(values, given, self.symbolic)
        missing = [value for value in values if value.name not in arrays]
        made = _random(missing, fixed, self.seed)
        for name, array in arrays.items():
            made[name] = _tensor(name, array)
        return {str(value.name): made[str(value.name)] for value in values}

    def of(self, model: ir.Model) -> dict[str, torch.Tensor]:
        """A tensor for each input of a model."""
        return self.tensors(real_inputs(model))

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Where a run fails on random inputs, say that they were random."""
        try:
            yield
        except InvalidModel as error:
            if self.are_real or "while running" not in str(error):
                raise
            raise InvalidModel(
                f"{error}\nThe inputs were random: give real ones with --input NAME=FILE.npy, or "
                "extents that fit together with --input-shape."
            ) from error

    def _arrays(self, values: Sequence[ir.Value]) -> dict[str, np.ndarray]:
        found = {} if self.archive is None else _archive(self.archive)
        for entry in self.files:
            name, _, file = entry.rpartition("=")
            found[name or _only(values, "--input", entry)] = _array(Path(file))
        _check_names(values, found, "--inputs" if self.archive is not None else "--input")
        return found

    def _shapes(self, values: Sequence[ir.Value]) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}
        for entry in self.shapes:
            name, _, text = entry.rpartition(":")
            try:
                shape = tuple(int(part) for part in text.split(",") if part.strip())
            except ValueError:
                shape = (-1,)
            if any(extent < 0 for extent in shape):
                raise InvalidInput(f"--input-shape: expected e.g. x:1,3,224,224, got {entry!r}")
            found[name or _only(values, "--input-shape", entry)] = shape
        _check_names(values, found, "--input-shape")
        return found


def given_inputs(
    files: list[str] | None,
    archive: Path | None,
    shapes: list[str] | None,
    seed: int,
    symbolic: int = 2,
) -> GivenInputs:
    """From options, which are None where nothing was given."""
    return GivenInputs(tuple(files or ()), archive, tuple(shapes or ()), seed, symbolic)


def _only(values: Sequence[ir.Value], option: str, entry: str) -> str:
    if len(values) != 1:
        names = ", ".join(str(value.name) for value in values)
        raise InvalidInput(f"{option}: {entry!r} names no input; the model has {names or 'none'}")
    return str(values[0].name)


def _check_names(values: Sequence[ir.Value], given: Mapping[str, object], option: str) -> None:
    names = [str(value.name) for value in values]
    unknown = [name for name in given if name not in names]
    if unknown:
        raise InvalidInput(
            f"{option}: the model has no input {unknown[0]!r}; it has {', '.join(names) or 'none'}"
        )


def _resolved(
    values: Sequence[ir.Value], given: Mapping[str, tuple[int, ...]], symbolic: int
) -> dict[str, tuple[int, ...]]:
    """A shape for each input; where one given shape fixes a symbolic extent, it does for all."""
    extents: dict[str, int] = {}
    for value in values:
        shape = given.get(str(value.name))
        if shape is not None and value.shape is not None:
            extents |= _bound(str(value.name), value.shape, shape)
    found = {}
    for value in values:
        name = str(value.name)
        if name not in given and value.shape is None:
            raise InvalidInput(f"input {name!r} has no shape: give one with --input-shape {name}:…")
        free = (_extent(dim, extents, symbolic) for dim in value.shape or ())
        found[name] = given[name] if name in given else tuple(free)
    return found


def _extent(dim: int | ir.SymbolicDim, extents: Mapping[str, int], symbolic: int) -> int:
    return dim if isinstance(dim, int) else extents.get(str(dim.value), symbolic)


def _bound(name: str, wanted: ir.Shape, shape: tuple[int, ...]) -> dict[str, int]:
    """What the symbolic extents of one input are, if `shape` fits it."""
    pairs = list(zip(wanted, shape, strict=False))
    if len(wanted) != len(shape) or any(isinstance(w, int) and w != s for w, s in pairs):
        text = ", ".join(str(dim) for dim in wanted)
        raise InvalidInput(f"input {name!r}: expected shape ({text}), got {shape}")
    return {str(w.value): s for w, s in pairs if not isinstance(w, int) and w.value is not None}


def _random(
    values: Sequence[ir.Value], shapes: Mapping[str, tuple[int, ...]], seed: int
) -> dict[str, torch.Tensor]:
    """Random tensors, made for a model with these inputs and nothing else."""
    inputs = []
    for value in values:
        name, dtype = str(value.name), value.dtype
        if dtype is None or dtype is ir.DataType.STRING:
            raise InvalidInput(
                f"input {name!r} is no tensor of numbers, so no random one can be made; "
                "`passel optimize --no-verify` needs none"
            )
        plain = ir.DataType.FLOAT if dtype is ir.DataType.BFLOAT16 else dtype
        shape = ir.Shape(shapes[name])
        inputs.append(ir.Value(name=name, shape=shape, type=ir.TensorType(plain)))
    model = ir.Model(ir.Graph(inputs, [], nodes=[]), ir_version=10)
    made = {}
    for value, tensor in zip(values, make_inputs(model, seed), strict=True):
        is_bfloat = value.dtype is ir.DataType.BFLOAT16
        made[str(value.name)] = tensor.bfloat16() if is_bfloat else tensor
    return made


def _archive(path: Path) -> dict[str, np.ndarray]:
    loaded = _loaded(path)
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise InvalidInput(f"--inputs: expected an .npz archive, got {str(path)!r}")
    try:
        return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, BadZipFile) as error:
        raise InvalidInput(f"cannot read {str(path)!r}: {error}") from error


def _array(path: Path) -> np.ndarray:
    loaded = _loaded(path)
    if not isinstance(loaded, np.ndarray):
        raise InvalidInput(
            f"--input: expected an .npy file, got {str(path)!r}; --inputs reads .npz"
        )
    return loaded


def _loaded(path: Path) -> object:
    try:
        found: object = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise InvalidInput(f"no such file: {str(path)!r}") from error
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise InvalidInput(f"cannot read {str(path)!r} as .npy or .npz: {error}") from error
    return found


def _tensor(name: str, array: np.ndarray) -> torch.Tensor:
    try:
        return torch.from_numpy(array)
    except TypeError as error:
        raise InvalidInput(f"input {name!r}: {error}") from error
