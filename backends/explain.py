"""Why a runtime refused an input, in the user's terms."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidInput

ORT_NAMES = {"float": "float32", "double": "float64"}


@dataclass(frozen=True)
class InputSpec:
    """What a program takes at one place; an extent that is text or None is free."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]

    @classmethod
    def of_onnxruntime(cls, value: Any) -> "InputSpec":
        """From what a session says: "tensor(float)" is float32."""
        dtype = value.type.removeprefix("tensor(").removesuffix(")")
        return cls(value.name, ORT_NAMES.get(dtype, dtype), tuple(value.shape))

    @property
    def described(self) -> str:
        shape = ", ".join(str(extent) for extent in self.shape)
        return f"({shape},)" if len(self.shape) == 1 else f"({shape})"


def mismatch(specs: Sequence[InputSpec], given: Sequence[Any]) -> InvalidInput | None:
    """The first input that does not fit, as an error; None when all do."""
    sizes: dict[str, tuple[int, str]] = {}
    for spec, value in zip(specs, given, strict=True):
        shape = tuple(int(extent) for extent in value.shape)
        if len(shape) != len(spec.shape) or not all(map(_fits, spec.shape, shape)):
            return InvalidInput(
                f"input {spec.name!r}: expected shape {spec.described}, got {shape}"
            )
        have = str(value.dtype).removeprefix("torch.")
        if have != spec.dtype:
            return InvalidInput(f"input {spec.name!r}: expected {spec.dtype}, got {have}")
        for extent, size in zip(spec.shape, shape, strict=True):
            if isinstance(extent, str) and sizes.setdefault(extent, (size, spec.name))[0] != size:
                other, where = sizes[extent]
                return InvalidInput(
                    f"input {spec.name!r}: expected {extent} = {other} as in {where!r}, got {size}"
                )
    return None


def _fits(extent: int | str | None, size: int) -> bool:
    return not isinstance(extent, int) or extent == size
