"""What a side of the quantization benchmark is: a recipe that turns the float model into a file.

A side's name is "family:setting"; several settings of one family compete, and those that another
setting of the family beats in both time and error are left out of the final run.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...backends.hardware import version_of
from .quant_models import Case, arrays

PEERS = "peers"
"""The extra of this package that installs every peer."""


@dataclass(frozen=True)
class Job:
    """What a recipe works on.

    Attributes:
        source: the float model as torch.onnx exports it.
        folder: where the recipe puts its file; empty.
    """

    case: Case
    source: Path
    folder: Path
    threads: int

    def feeds(
        self, names: "list[str]", count: int | None = None
    ) -> "Iterator[dict[str, np.ndarray]]":
        """The calibration inputs by name."""
        for inputs in self.case.calibration_inputs(count):
            yield dict(zip(names, arrays(inputs), strict=True))


@dataclass(frozen=True)
class Samples:
    """A case's calibration inputs, as tensors, as often as they are wanted."""

    case: Case

    def __iter__(self) -> "Iterator[tuple[torch.Tensor, ...]]":
        return self.case.calibration_inputs()

    def __len__(self) -> int:
        return self.case.calibration


@dataclass(frozen=True)
class Built:
    """What a recipe made.

    Attributes:
        notes: what a reader of the table should know.
        config: what the runtime is told besides the number of threads.
    """

    notes: tuple[str, ...] = ()
    config: "dict[str, Any]" = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """One side.

    Attributes:
        runtime: a key of `quant_run.RUNTIMES`.
        about: the settings, for people.
        build: fills the job's folder.
        packages: what has to be installed besides this package's own needs.
        timed: false for a side that is there for its error only.
    """

    runtime: str
    about: str
    build: Callable[[Job], Built]
    packages: tuple[str, ...] = ()
    timed: bool = True

    @property
    def missing(self) -> "list[str]":
        """Packages that are not installed."""
        return [name for name in self.packages if version_of(name) is None]


def family(side: str) -> str:
    """The part of a side's name that its settings share."""
    return side.partition(":")[0]


def onnx_inputs(path: Path) -> "list[str]":
    """Names of a model's inputs."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    return [value.name for value in graph.input if value.name not in constants]
