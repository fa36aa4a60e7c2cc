"""`passel bench --quant`: quantized models of passel and of others, by latency and by error."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ...backends.hardware import Hardware
from ...errors import PasselError
from .latency import Side, interleave, summary
from .quant_build import UNAVAILABLE
from .quant_models import DEFAULT, MODELS
from .quant_sides import SIDES, chosen, family
from .quant_table import Row, rows_to_json, table
from .quant_work import FLOAT, Place

Say = Callable[[str], None]
MODULE = "passel.tools.bench"
TIE = 1.03
"""A setting this much slower than another, and no more exact, is left out of the final run."""

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@dataclass(frozen=True)
class Plan:
    """How to measure.

    Attributes:
        seconds: time for each side in the final run.
        trial: time for each setting when a family's compete; 0 keeps all.
        build_limit: seconds that building one side may take.
    """

    root: Path
    seconds: float
    trial: float
    threads: int
    build_limit: float


@app.command()
def quant(
    models: Annotated[
        str, typer.Option(help=f"comma-separated, of {', '.join(MODELS)}")
    ] = ",".join(DEFAULT),
    sides: Annotated[
        str | None, typer.Option(help="comma-separated families, family:setting, or patterns")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, help="measuring time per side")] = 10.0,
    trial: Annotated[
        float, typer.Option(min=0, help="per setting of a family, to choose; 0 keeps all")
    ] = 2.0,
    threads: Annotated[int, typer.Option(min=0, help="threads per side (0: all cores)")] = 0,
    work_dir: Annotated[Path, typer.Option(help="keeps what was built; safe to delete")] = Path(
        ".bench-quant"
    ),
    build_limit: Annotated[float, typer.Option(min=1, help="seconds to build one side")] = 1800.0,
    json_path: Annotated[Path | None, typer.Option("--json", help="write the numbers here")] = None,
) -> None:
    """Compare quantized models: latency, error, size and memory, side by side.

    A side of several settings (ort-dynamic, openvino-nncf, ...) shows those that no other of them
    beats in both time and error. Peers that are not installed are named: pip install passel[peers].
    The error is against the float model, on inputs that calibrated nothing.

      passel bench --quant --models vit-s --seconds 20
      passel bench --quant --models minilm --sides "ort-*,passel-int8"
    """
    names = [name.strip() for name in models.split(",") if name.strip()]
    for name in names:
        if name not in MODELS:
            raise typer.BadParameter(f"unknown model {name!r}; there are {', '.join(MODELS)}")
    wanted = None if sides is None else [side.strip() for side in sides.split(",")]
    plans = {name: chosen(wanted, name) for name in names}
    count = threads or Hardware.detect().usable_cores
    plan = Plan(work_dir.resolve(), seconds, trial, count, build_limit)
    found: dict[str, list[Row]] = {}
    # A file has no edge to fold the table at.
    console = Console(width=None if sys.stdout.isatty() else 160)
    err = Console(stderr=True)
    with err.status("starting") as status:
        for name in names:
            found[name] = measure(name, plans[name], plan, status.update)
    for name, rows in found.items():
        console.print(table(name, rows, Place(plan.root, name).float_model(), plan.threads))
    if json_path is not None:
        write_json(json_path, found, plan)


def write_json(path: Path, found: "dict[str, list[Row]]", plan: Plan) -> None:
    """Write all rows beside what they were measured on."""
    from . import machine

    facts = {name: Place(plan.root, name).float_model() for name in found}
    content = {"machine": machine(plan.threads), "models": rows_to_json(found, facts)}
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def measure(model: str, sides: "list[str]", plan: Plan, say: Say) -> "list[Row]":
    """Build, choose settings, time; a row for each side, those that are not measured included."""
    place = Place(plan.root, model)
    say(f"{model}: exporting the float model")
    failure = build(place, FLOAT, plan)
    if failure:
        raise PasselError(f"bench: cannot export {model}: {failure}")
    rows: dict[str, Row] = {}
    for side in sides:
        say(f"{model}: building {side}")
        rows[side] = Row(side, SIDES[side].about, failure=build(place, side, plan))
    for side in [side for side in sides if not rows[side].failure and not SIDES[side].timed]:
        _timed(place, [side], 0, rows, plan, say)
    left = [side for side in sides if not rows[side].failure and SIDES[side].timed]
    for rivals in families(left):
        if len(rivals) > 1 and plan.trial:
            _timed(place, rivals, plan.trial, rows, plan, say)
            beaten = dominated({side: rows[side] for side in rivals if not rows[side].failure})
            for side, winner in beaten.items():
                rows[side].beaten_by = winner
    left = [side for side in left if not rows[side].failure and not rows[side].beaten_by]
    _timed(place, left, plan.seconds, rows, plan, say)
    for side, row in rows.items():
        if not row.failure:
            row.describe(place, side)
    return list(rows.values())


def families(sides: "list[str]") -> "list[list[str]]":
    """Sides grouped by family."""
    groups: dict[str, list[str]] = {}
    for side in sides:
        groups.setdefault(family(side), []).append(side)
    return list(groups.values())


def dominated(rows: "dict[str, Row]") -> "dict[str, str]":
    """Settings that another setting beats in both time and error, with that other."""
    found: dict[str, str] = {}
    for side, row in rows.items():
        for other, rival in rows.items():
            slower = row.median_ms > rival.median_ms * TIE
            tied = row.median_ms >= rival.median_ms
            if (
                other not in found
                and other != side
                and ((slower and row.error >= rival.error) or (tied and row.error > rival.error))
            ):
                found[side] = other
                break
    return found


def build(place: Place, side: str, plan: Plan) -> str:
    """Build one side in its own process; returns why there is none, or nothing."""
    arguments = [place.model, side, str(place.root), str(plan.threads)]
    command = [sys.executable, "-W", "ignore", "-m", f"{MODULE}.quant_build", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=plan.build_limit)
    except subprocess.TimeoutExpired:
        return f"not built within {plan.build_limit:.0f} s"
    if done.returncode == 0:
        return ""
    last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return last if done.returncode == UNAVAILABLE else f"failed: {last}"


def _timed(
    place: Place, sides: "list[str]", seconds: float, rows: "dict[str, Row]", plan: Plan, say: Say
) -> None:
    """Run sides interleaved (with 0 seconds: only measure errors) and note what they took."""
    running: list[Side] = []
    try:
        for side in sides:
            say(f"{place.model}: loading {side}")
            try:
                running.append(_launch(place, side, plan))
            except PasselError as error:
                rows[side].failure = f"failed: {error}"
                place.error(side).unlink(missing_ok=True)
        if seconds:
            interleave(running, seconds, lambda what: say(f"{place.model}: {what}"))
        for one in running:
            one.stop()
    finally:
        for one in running:
            one.process.kill()
    times: dict[str, dict[str, Any]] = dict(summary(running)) if seconds else {}
    for one in running:
        rows[one.name].note(place, times.get(one.name), one.peak_bytes)


def _launch(place: Place, side: str, plan: Plan) -> Side:
    arguments = (place.model, side, str(place.root), str(plan.threads))
    return Side.launch(side, f"{MODULE}.quant_worker", *arguments)


def main(argv: "list[str] | None" = None) -> int:
    """Entry point of `passel bench --quant` and `python -m passel.tools.bench.quant`."""
    result = app(args=argv, standalone_mode=False)
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
