"""What `prune-tokens` costs in accuracy, and saves, on the trained digits ViTs.

python -m passel.tools.bench.pruning
python -m passel.tools.bench.pruning --ratio 0.5 --ratio 0.7 --amplitude 0
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from ...passes import PruneTokens

MODELS = ("layer", "unified")
RATIOS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SCORES = ("class-attention", "key-norm")

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Point:
    """One measurement: accuracy on the test images, and operations against the dense model's.

    `kept` has the number of tokens that each layer attends to.
    """

    norm: str
    scores: str
    ratio: float | None
    kept: tuple[int, ...]
    accuracy: float
    flops: float


@app.command()
def main(
    ratio: Annotated[list[float] | None, typer.Option(help="repeatable")] = None,
    amplitude: Annotated[float, typer.Option(help="of the schedule; 0 for a constant one")] = 0.5,
) -> None:
    """Print accuracy against ratio, for both scores, on the 360 test images."""
    console = Console()
    for norm in MODELS:
        table = Table(title=f"digits ViT, {norm} norm", title_justify="left")
        for heading in ("ratio", "scores", "tokens per layer", "accuracy", "FLOPs"):
            table.add_column(heading, justify="right")
        with console.status(f"measuring {norm}"):
            for point in points(norm, ratio or list(RATIOS), amplitude):
                table.add_row(*row(point))
        console.print(table)


def row(point: Point) -> tuple[str, ...]:
    """A measurement as text."""
    share = "dense" if point.ratio is None else f"{point.ratio:g}"
    kept = " ".join(map(str, point.kept))
    return share, point.scores, kept, f"{point.accuracy:.2%}", f"{point.flops:.1%}"


def points(norm: str, ratios: list[float], amplitude: float = 0.5) -> Iterator[Point]:
    """The dense model, then every ratio with either score."""
    from ...passes import PruneTokens

    dense = measured(norm, None)
    yield dense
    for ratio in ratios:
        for scores in SCORES:
            one = PruneTokens(ratio=ratio, scores=scores, amplitude=amplitude)
            yield measured(norm, one)


def measured(norm: str, one: "PruneTokens | None") -> Point:
    """Accuracy and operations of a trained digits ViT after a pass."""
    from torch.export import ExportedProgram

    from ...compiler import optimize
    from ...models import accuracy, load_digits_split, load_trained

    images = load_digits_split().x_test
    found = optimize(load_trained(norm), (images,), passes=["default", one or "none"], verify=False)
    assert isinstance(found.program, ExportedProgram)
    kept = tuple(int(layer.keys) for layer in found.report.after.layers)
    flops = found.report.after.flops / dense_flops(norm)
    share = accuracy(found.program.module())
    if one is None:
        return Point(norm, "", None, kept, share, flops)
    return Point(norm, one.scores, one.ratio, kept, share, flops)


@cache
def dense_flops(norm: str) -> int:
    """Operations for all test images, after the default passes."""
    from ...compiler import optimize
    from ...models import load_digits_split, load_trained

    images = load_digits_split().x_test
    return optimize(load_trained(norm), (images,), verify=False).report.after.flops


if __name__ == "__main__":
    app()
