"""Optuna's part of the database: its storage, and the studies of results that are removed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ...errors import InvalidInput
from .connection import connect_options, explained
from .place import Place
from .turns import turn

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

TABLE = "studies"
"""One of Optuna's tables."""


def storage(engine: sa.Engine, place: Place) -> "RDBStorage":
    """Optuna's storage in the same database; its tables are made by one process at a time.

    Raises:
        InvalidInput: another version of Optuna made the tables, or the database refuses.
    """
    from optuna.storages import RDBStorage

    url = place.url.render_as_string(hide_password=False)
    settings = {"connect_args": connect_options(place)}
    with explained(place), turn(engine, place):
        try:
            return RDBStorage(url, engine_kwargs=settings)
        except RuntimeError as error:  # of its check of the schema
            raise InvalidInput(f"database {place}: {place.hide(str(error))}") from error


def delete(engine: sa.Engine, place: Place, names: Sequence[str]) -> None:
    """Delete the studies of these names, where there are any."""
    with explained(place), engine.connect() as connection:
        if not sa.inspect(connection).has_table(TABLE):
            return
    kept = storage(engine, place)
    wanted = set(names)
    for study in kept.get_all_studies():
        if study.study_name in wanted:
            kept.delete_study(study._study_id)
