"""How a model is called: nested arguments to a flat list of tensors, and flat results back."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree

from .errors import InvalidInput

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def as_arguments(example_inputs: Any) -> Arguments:
    """A tensor, a tuple or list of inputs, or a dict of keyword inputs, as (args, kwargs).

    numpy arrays become tensors that share their memory.
    """
    if isinstance(example_inputs, Mapping):
        return (), {str(key): as_tensor(value) for key, value in example_inputs.items()}
    if isinstance(example_inputs, list | tuple):
        return tuple(as_tensor(value) for value in example_inputs), {}
    return (as_tensor(example_inputs),), {}


def as_tensor(value: Any) -> Any:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


@dataclass
class Signature:
    """Names, order and nesting of a model's inputs and outputs.

    Attributes:
        inputs: names of the tensor inputs, in flat order.
        outputs: names of the tensor outputs, in flat order.
        in_spec: pytree of ((args), {kwargs}), or None when inputs are given flat or by name.
        out_spec: pytree of the outputs, or None for a flat result.
        input_leaves: position among the flat leaves of each tensor input.
        constants: outputs that are no tensors: position among the output leaves, value.
        fixed: inputs that are no tensors, and so are part of the compiled model: position among
            the leaves, name and value.
        parameters: names of the model's parameters that can be given by position.
    """

    inputs: list[str]
    outputs: list[str]
    in_spec: pytree.TreeSpec | None = None
    out_spec: pytree.TreeSpec | None = None
    input_leaves: list[int] = field(default_factory=list)
    constants: dict[int, Any] = field(default_factory=dict)
    fixed: dict[int, tuple[str, object]] = field(default_factory=dict)
    parameters: list[str] = field(default_factory=list)

    def flatten(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """The tensor inputs of a call, in flat order.

        Raises:
            InvalidInput: an input is missing, unknown, or nested differently from the example, or
                one that is no tensor has another value than in the example.
        """
        if self.in_spec is None:
            return self._flatten_by_name(args, kwargs)
        leaves, spec = pytree.tree_flatten(self._arranged(args, kwargs))
        if spec != self.in_spec:
            raise InvalidInput(
                f"expected the inputs of the example ({', '.join(self.inputs) or 'none'}), got "
                f"{_names(args, kwargs)}"
            )
        for index, (name, value) in self.fixed.items():
            _check_fixed(name, value, leaves[index])
        return [
            _as_tensor(n, leaves[k]) for n, k in zip(self.inputs, self.input_leaves, strict=True)
        ]

    def unflatten(self, results: Sequence[Any]) -> Any:
        """The model's own output structure around flat results."""
        if self.out_spec is None:
            return results[0] if len(results) == 1 else tuple(results)
        rest = iter(results)
        count = self.out_spec.num_leaves
        leaves = [self.constants[k] if k in self.constants else next(rest) for k in range(count)]
        return pytree.tree_unflatten(leaves, self.out_spec)

    def _arranged(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments:
        """The same call with by position and by keyword what was so in the example.

        What is no tensor may be left out, for it has its value. A call that does not fit stays.
        """
        assert self.in_spec is not None
        count, keywords = self.in_spec.child(0).num_children, self.in_spec.child(1).context or []
        by_position = self.parameters[:count]
        named = dict(zip(self.parameters, args, strict=False))
        fits = len(args) <= len(self.parameters) and not named.keys() & kwargs.keys()
        given = {**dict(self.fixed.values()), **named, **kwargs}
        wanted = [*by_position, *keywords]
        if not fits or len(by_position) != count or not given.keys() >= set(wanted):
            return tuple(args), dict(kwargs)
        if not set(wanted) >= named.keys() | kwargs.keys():
            return tuple(args), dict(kwargs)
        return tuple(given[n] for n in by_position), {name: given[name] for name in keywords}

    def _flatten_by_name(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        if len(args) == 1 and not kwargs and isinstance(args[0], Mapping):
            return self._flatten_by_name((), args[0])
        named = dict(zip(self.inputs, args, strict=False)) | dict(kwargs)
        if len(args) + len(kwargs) != len(self.inputs) or set(named) != set(self.inputs):
            wanted = ", ".join(self.inputs) or "none"
            raise InvalidInput(f"expected inputs {wanted}; got {_names(args, kwargs)}")
        return [_as_tensor(name, named[name]) for name in self.inputs]

    def to_json(self) -> str:
        """The signature as text; nesting is kept where torch can write it down."""
        plain = {
            "inputs": self.inputs,
            "outputs": self.outputs,
            "in_spec": _dump(self.in_spec),
            "out_spec": _dump(self.out_spec),
            "input_leaves": self.input_leaves,
            "parameters": self.parameters,
            "constants": {str(k): v for k, v in self.constants.items() if _is_plain(v)},
            "fixed": {str(k): v for k, v in self.fixed.items() if _is_plain(v[1])},
        }
        return json.dumps(plain, indent=2)

    @classmethod
    def from_json(cls, text: str) -> "Signature":
        """Read `to_json` back; nesting whose Python types are not imported here is dropped."""
        plain = json.loads(text)
        in_spec, out_spec = (_load(plain[key]) for key in ("in_spec", "out_spec"))
        constants = {int(key): value for key, value in plain["constants"].items()}
        fixed = {int(key): (name, value) for key, (name, value) in plain["fixed"].items()}
        return cls(
            plain["inputs"],
            plain["outputs"],
            in_spec,
            out_spec,
            plain["input_leaves"],
            constants,
            fixed,
            plain["parameters"],
        )


def _as_tensor(name: str, value: Any) -> Any:
    """A torch tensor or a numpy array; numbers and lists of them as torch would read them."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return value
    try:
        return torch.as_tensor(value).numpy()
    except (TypeError, ValueError, RuntimeError):
        kind = type(value).__name__
        raise InvalidInput(f"input {name!r}: expected a tensor or an array, got {kind}") from None


def _check_fixed(name: str, value: Any, given: Any) -> None:
    if isinstance(given, torch.Tensor | np.ndarray) or given != value:
        got = type(given).__name__ if isinstance(given, torch.Tensor | np.ndarray) else repr(given)
        raise InvalidInput(
            f"input {name!r}: expected {value!r}, the value in example_inputs that the model was "
            f"compiled with, got {got}: give a tensor there to keep it open, or compile again"
        )


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _dump(spec: pytree.TreeSpec | None) -> str | None:
    """As text; empty where a type in it cannot be written down."""
    try:
        return None if spec is None else pytree.treespec_dumps(spec)
    except (NotImplementedError, TypeError):
        return ""


def _load(text: str | None) -> pytree.TreeSpec | None:
    try:
        return None if text is None else pytree.treespec_loads(text)
    except (NotImplementedError, ValueError, KeyError):
        return None


def _names(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    given = [f"{len(args)} positional"] if args else []
    return ", ".join([*given, *kwargs]) or "nothing"
