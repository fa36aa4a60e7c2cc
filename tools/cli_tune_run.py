"""`passel tune`: the search, its progress, its result on the screen and on disk."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from .. import tuned_report
from ..autotuning import autotune
from ..backends.compiled import CompiledModel
from ..backends.tuning.live import line
from ..backends.tuning.standing import Standing
from ..errors import InvalidInput
from ..graph.onnx_io import check_writable, read
from .cli import INTERRUPTED
from .cli_inputs import given_inputs
from .cli_options import split_passes
from .cli_screen import Screen
from .cli_tables import columns, labelled
from .plot_search import plot_search
from .plots import check_plot

if TYPE_CHECKING:
    from .cli_tune import Run


def carry_out(run: "Run", screen: Screen) -> None:
    """Search, print, save.

    Raises:
        PasselError: as `passel.autotune`; nothing is written then.
        typer.Exit: the search was interrupted; what it had found is written.
    """
    check_paths(run)
    model = read(run.model)
    given = given_inputs(run.input_files, run.inputs, run.input_shape, run.seed)
    examples = given.of(model) if given.are_real or given.shapes else None
    with given.explained():
        tuned = autotune(
            run.model,
            examples,
            target=run.target,
            budget=run.budget,
            trials=run.trials,
            database=run.storage,
            objective=run.objective,
            max_error=run.max_error,
            passes=split_passes(run.passes),
            threads=run.threads,
            seed=run.seed,
            progress=progress(screen),
        )
    write(run, tuned)
    show(run, tuned, screen)
    if any(note.startswith(tuned_report.INTERRUPTED) for note in tuned.report.notes):
        raise typer.Exit(INTERRUPTED)


def check_paths(run: "Run") -> None:
    """Refuse paths that cannot be written before any work is done.

    Raises:
        InvalidInput: the folder is a file, or a path cannot be written.
    """
    if run.output is not None and run.output.exists() and not run.output.is_dir():
        raise InvalidInput(f"--output: expected a folder, got the file {str(run.output)!r}")
    if run.report is not None:
        check_writable(run.report)
    if run.plot is not None:
        check_plot(run.plot)


def progress(screen: Screen) -> "Callable[[Standing], None] | None":
    """A live table on a terminal (None), one line for each new best elsewhere, or nothing."""
    if screen.quiet:
        return lambda _: None
    return None if sys.stderr.isatty() else Lines()


class Lines:
    """One line on stderr whenever there is a new best plan."""

    def __init__(self) -> None:
        self._shown = 0.0

    def __call__(self, standing: Standing) -> None:
        if standing.baseline > 0 and standing.cost != self._shown:
            self._shown = standing.cost
            print(f"{line(standing)}  {standing.best}", file=sys.stderr, flush=True)


def write(run: "Run", tuned: CompiledModel) -> None:
    """Whatever was asked for."""
    if run.output is not None:
        tuned.save(run.output)
    if run.report is not None:
        tuned.report.to_json(run.report)
    if run.plot is not None:
        plot_search(tuned.report, run.plot)


def show(run: "Run", tuned: CompiledModel, screen: Screen) -> None:
    """The result, as text or as JSON."""
    chosen, notes = tuned.report.chosen, tuned.report.notes
    if run.as_json:
        plain: dict[str, Any] = {**chosen, "notes": notes, "verified": tuned.report.verified}
        plain["output"] = None if run.output is None else str(run.output)
        screen.print_json(plain)
        return
    screen.print(table(chosen), labelled("verified", tuned.report.verified))
    screen.print(*(labelled("note", note) for note in notes))
    if run.output is not None:
        screen.print(f"wrote {run.output}")


def table(chosen: "dict[str, Any]") -> Table:
    """What was found, beside the baseline."""
    found = columns("", "", left=(0, 1))
    found.add_row("plan", str(chosen["in words"]))
    for name, value in chosen.items():
        if name.startswith(("baseline ", "best ")):
            what, _, unit = name.partition(" ")
            found.add_row(what, f"{value:.4g} {unit}")
    found.add_row("ratio", f"{chosen['ratio']:.3f}")
    found.add_row("error", f"{chosen['error']:.2g}")
    trials = ", ".join(f"{count} {name}" for name, count in chosen["trials"].items())
    found.add_row("trials", f"{trials} in {chosen['seconds']:.0f} s")
    return found
