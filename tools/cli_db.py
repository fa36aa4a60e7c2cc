"""The commands `passel db …`: look at what tuning has found, carry it about, clean it up."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InvalidInput
from . import cli_options as options
from .cli_commands import app

if TYPE_CHECKING:
    from rich.table import Table

    from ..backends.tuning.database import Database, Record

SHORT = 12
"""Digits of a key that are shown."""

db = typer.Typer(
    name="db",
    help="List, show, export, import and prune what `passel tune` has found.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(db)

Where = Annotated[
    str | None,
    typer.Option(
        "--database",
        "--storage",
        metavar="FILE|URL",
        help="A SQLite file or any SQLAlchemy URL. By default the file in the user's cache folder "
        "(PASSEL_CACHE).",
    ),
]


@db.command("list")
def show_all(
    context: typer.Context, database: Where = None, as_json: options.AsJson = False
) -> None:
    """List every result, the newest first; * marks those that hold on this machine."""
    opened = open_database(database)
    records = opened.records()
    if as_json:
        context.obj.print_json([{"id": r.key.digest, **r.to_dict()} for r in records])
        return
    footer = f"{opened.where}: {len(records)} result{'' if len(records) == 1 else 's'}"
    size = size_text(opened)
    context.obj.print(listing(records), f"{footer}, {size}" if size else footer)


@db.command()
def show(
    context: typer.Context,
    result: Annotated[str, typer.Argument(metavar="ID", help="The first digits of a result.")],
    database: Where = None,
) -> None:
    """Show one result with its whole key and plan, as JSON."""
    found = one(open_database(database), result)
    plain = {"id": found.key.digest, **found.to_dict(), "plan": json.loads(found.plan)}
    context.obj.print_json(plain)


@db.command()
def export(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="FILE.json", help="Where to write.")],
    database: Where = None,
) -> None:
    """Write every result to a JSON file, for `passel db import` elsewhere."""
    count = open_database(database).export(path)
    context.obj.print(f"{count} results written to {path}")


@db.command("import")
def merge(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="FILE.json", help="What export wrote.")],
    database: Where = None,
) -> None:
    """Add the results of a JSON file; where both know a model, the better result stays."""
    count = open_database(database).merge(path)
    context.obj.print(f"{count} results of {path} were new or better")


@db.command()
def prune(
    context: typer.Context,
    older_than: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="DAYS", help="Remove what was not updated for so long."),
    ] = None,
    keep: Annotated[
        int | None, typer.Option(min=0, help="Remove all but so many, the last updated.")
    ] = None,
    other_versions: Annotated[
        bool,
        typer.Option(
            "--other-versions", help="Remove what was found with other versions than those here."
        ),
    ] = False,
    database: Where = None,
) -> None:
    """Remove results, with the trials behind them."""
    from ..backends.hardware import Hardware

    if older_than is None and keep is None and not other_versions:
        raise InvalidInput("prune: expected --older-than, --keep or --other-versions")
    opened = open_database(database)
    versions = Hardware.detect().versions if other_versions else None
    count = opened.prune(older_than, keep, versions)
    context.obj.print(f"{count} results removed from {opened.where}, {size_text(opened)} left")


def open_database(where: str | None) -> "Database":
    """The database, with anything that happened to it said on stderr."""
    from ..backends.tuning.database import Database

    opened = Database.open(where)
    for note in opened.notes:
        print(f"passel: note: {note}", file=sys.stderr)
    return opened


def one(database: "Database", prefix: str) -> "Record":
    """The record whose key begins so.

    Raises:
        InvalidInput: there is none, or more than one.
    """
    found = [record for record in database.records() if record.key.digest.startswith(prefix)]
    if len(found) != 1:
        count = "none" if not found else str(len(found))
        raise InvalidInput(
            f"expected the first digits of one result, got {prefix!r}, with which {count} begin: "
            "`passel db list` shows them"
        )
    return found[0]


def listing(records: Sequence["Record"]) -> "Table":
    """A line for each record."""
    from ..backends.hardware import Hardware, fingerprint
    from ..backends.target import Target
    from .cli_tables import columns

    hardware = Hardware.detect()
    here = fingerprint(hardware, Target()), hardware.versions
    headings = ("id", "model", "objective", "bound", "best", "plain", "ratio", "trials", "updated")
    table = columns("", *headings, left=(0, 1, 2, 3))
    for record in records:
        key = record.key
        table.add_row(
            "*" if (key.hardware, key.versions) == here else "",
            key.digest[:SHORT],
            record.model or key.graph[:SHORT],
            key.objective,
            "exact" if key.bound is None else f"{key.bound:g}",
            *(measure(number, key.objective) for number in (record.cost, record.baseline)),
            f"{1 / record.ratio:.2f}×",
            str(record.trials),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(record.updated)),
        )
    return table


def measure(number: float, objective: str) -> str:
    """A cost with its unit."""
    from ..backends.tuning.records import OBJECTIVES
    from .cli_tables import size

    unit = OBJECTIVES[objective]
    return size(round(number * 1e6)) if unit == "MB" else f"{number:.3g} {unit}"


def size_text(database: "Database") -> str:
    """What the database takes, "" where that is unknown."""
    from .cli_tables import size

    count = database.size_bytes
    return "" if count is None else size(count)
