"""What each weight rounding costs a trained model, by method and bits.

python -m passel.tools.bench.rounding
python -m passel.tools.bench.rounding --models digits,chargpt --bits 4,3 --methods rtn,mse+gptq

Only weights are rounded: every Linear of the model gets the weight that its codes stand for. The
inputs that the algorithms see come from calibration data; scores are of test data. A `+` chains
methods; those with a format of their own are run once, and shown last. Methods that would take
minutes (COSTLY) run on MiniLM only when they are named.
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer
from rich.console import Console

from ...backends.hardware import Hardware
from .rounding_table import FLOAT, Row, table, write

if TYPE_CHECKING:
    from ...passes.quantization.rounded import Format
    from .rounding_subjects import Subject

MODELS = ("digits", "chargpt", "minilm")
COMBINATIONS = (
    "rtn+lorc",
    "mse+gptq",
    "mse+lorc",
    "mse+gptq+lorc",
    "mse+adaround",
    "mse+flexround",
)
"""Chains that are run unless methods are named, beside every method alone."""

OWN_FORMAT = ("binary", "ternary", "partial-binary", "ptq161")
"""Methods that choose the number of bits; they keep the blocks asked for."""

COSTLY = ("codebook", "adaround", "flexround")
"""Methods that are left out on a large model unless they are named: minutes for each width."""

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Setting:
    """How all methods are run."""

    block: int
    symmetric: bool
    sequential: bool

    def wanted(self, bits: int | None) -> "Format":
        """The format asked for; a method with one of its own takes the blocks from it."""
        from ...passes.quantization.grid import Grid
        from ...passes.quantization.rounded import Format

        name = f"{'' if self.symmetric else 'u'}int{bits or 4}"
        return Format(Grid(name, symmetric=self.symmetric), self.block)


@app.command()
def main(
    models: Annotated[str, typer.Option(help="comma-separated")] = ",".join(MODELS),
    bits: Annotated[str, typer.Option(help="comma-separated")] = "8,4,3,2",
    methods: Annotated[str, typer.Option(help="comma-separated (default: all)")] = "",
    block: Annotated[int, typer.Option(help="weights that share a scale; 0: one a row")] = 32,
    symmetric: Annotated[bool, typer.Option(help="no zero points")] = True,
    sequential: Annotated[bool, typer.Option(help="layers see the rounded ones before")] = True,
    threads: Annotated[int, typer.Option(help="of torch and the BLAS (0: all cores)")] = 0,
    json_path: Annotated[Path | None, typer.Option("--json", help="write the rows here")] = None,
) -> None:
    """Print one table a model; exit with 1 if a method failed."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    from . import machine
    from .rounding_subjects import SUBJECTS

    widths = _widths(bits)
    named = _known_methods(methods.split(",")) if methods else None
    setting = Setting(block, symmetric, sequential)
    count = threads or Hardware.detect().usable_cores
    torch.set_num_threads(count)
    console, err = Console(), Console(stderr=True)
    rows: list[dict[str, object]] = []
    content: dict[str, object] = {
        "machine": machine(count),
        "setting": asdict(setting),
        "rows": rows,
    }
    for name in _known("model", models.split(","), SUBJECTS):
        with err.status(f"{name}: loading") as status, threadpool_limits(count):
            subject = SUBJECTS[name]()
            chains = named or default_methods(subject.large)
            found: list[Row] = []
            try:
                for row in measured(name, subject, chains, widths, setting, status.update):
                    found.append(row)
                    rows.append(asdict(row))
                    if json_path is not None:
                        write(json_path, content)
            finally:  # what there is when it is interrupted
                console.print(table(name, subject.measure, subject.shown, found))
    if any(row["error"] for row in rows):
        raise typer.Exit(1)


def default_methods(large: bool) -> list[str]:
    """Every method alone, then the combinations whose methods all exist; see COSTLY."""
    from ...passes.quantization.rounding.registry import STAGES

    chains = [*STAGES, *(chain for chain in COMBINATIONS if set(chain.split("+")) <= STAGES.keys())]
    return [chain for chain in chains if not (large and set(chain.split("+")) & set(COSTLY))]


def measured(
    name: str,
    subject: "Subject",
    methods: Sequence[str],
    bits: Sequence[int],
    setting: Setting,
    progress: Callable[[str], None] = lambda text: None,
) -> Iterator[Row]:
    """Yield the float model's row, then one for every method and width."""
    reference = subject.run(subject.model)
    quality, extra = subject.score(reference)
    yield Row(name, FLOAT, None, quality, None, extra, 32.0)
    for method in methods:
        own = any(part in OWN_FORMAT for part in method.split("+"))
        for width in (None,) if own else bits:
            step = f"{name}: {method}" + ("" if width is None else f" at {width} bits")
            yield one(
                name, subject, reference, method, width, setting, partial(_say, progress, step)
            )


def one(
    name: str,
    subject: "Subject",
    reference: "torch.Tensor",
    method: str,
    bits: int | None,
    setting: Setting,
    progress: Callable[[str], None],
) -> Row:
    """Round the model in one way and score it; an exception becomes the row's error."""
    from .rounding_layers import round_model
    from .rounding_subjects import snr_db

    start, row = time.perf_counter(), Row(name, method, bits)
    try:
        rounded = round_model(
            subject.model,
            subject.samples,
            setting.wanted(bits),
            method.split("+"),
            sequential=setting.sequential,
            progress=progress,
        )
        outputs = subject.run(rounded.model)
        quality, extra = subject.score(outputs)
    except Exception as error:  # the other rows are worth having, and the exit status tells
        return replace(row, error=f"{type(error).__name__}: {error}")
    return replace(
        row,
        quality=quality,
        snr_db=snr_db(reference, outputs),
        extra=extra,
        stored_bits=rounded.bits,
        rounding_seconds=rounded.rounding_seconds,
        seconds=time.perf_counter() - start,
        notes=tuple(rounded.notes),
    )


def _say(progress: Callable[[str], None], step: str, layer: str) -> None:
    progress(f"{step}, {layer}")


def _widths(text: str) -> list[int]:
    if not all(part in ("2", "3", "4", "5", "6", "7", "8") for part in text.split(",")):
        raise typer.BadParameter(f"expected bits from 2 to 8, got {text!r}")
    return [int(part) for part in text.split(",")]


def _known(what: str, names: Sequence[str], known: Collection[str]) -> Sequence[str]:
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"unknown {what} {name!r}; there are {', '.join(known)}")
    return names


def _known_methods(chains: Sequence[str]) -> Sequence[str]:
    from ...passes.quantization.rounding.registry import STAGES

    _known("method", [part for chain in chains for part in chain.split("+")], STAGES)
    return chains


if __name__ == "__main__":
    app()
