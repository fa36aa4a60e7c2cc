"""The tables of the database, and how those of another version are dealt with.

Optuna's tables lie beside them; ours begin with `passel_`. `passel_meta` names the schema's
version. An older schema is brought up to date by `MIGRATIONS`; a newer one is left alone.
"""

from collections.abc import Callable
from types import MappingProxyType

import sqlalchemy as sa

from ... import __version__
from ...errors import InvalidInput
from .glimpse import SCHEMA

NAME_LENGTH = 255
"""Of a model's name; the rest of a longer one is cut off."""

metadata = sa.MetaData()

meta = sa.Table(
    "passel_meta",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", sa.String(255), nullable=False),
)
models = sa.Table(
    "passel_models",
    metadata,
    sa.Column("graph", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(NAME_LENGTH), nullable=False),
    sa.Column("first_seen", sa.Double, nullable=False),
)
results = sa.Table(
    "passel_results",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("graph", sa.String(64), sa.ForeignKey("passel_models.graph"), nullable=False),
    sa.Column("hardware", sa.String(64), nullable=False),
    sa.Column("versions", sa.Text, nullable=False),
    sa.Column("objective", sa.String(16), nullable=False),
    sa.Column("bound", sa.Double),
    sa.Column("plan", sa.Text, nullable=False),
    sa.Column("cost", sa.Double, nullable=False),
    sa.Column("baseline", sa.Double, nullable=False),
    sa.Column("ratio", sa.Double, nullable=False),
    sa.Column("error", sa.Double, nullable=False),
    sa.Column("trials", sa.Integer, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("updated", sa.Double, nullable=False),
)

Migration = Callable[[sa.Connection], None]
MIGRATIONS: "MappingProxyType[int, Migration]" = MappingProxyType({})
"""From a schema version, what makes it the next one."""


class TooOld(InvalidInput):
    """The database has a schema that nothing here can bring up to date."""


def prepare(connection: sa.Connection, where: str) -> None:
    """Create the tables, or bring them up to date.

    Raises:
        InvalidInput: a newer passel wrote them. `TooOld` where no migration leads here.
    """
    found = version(connection, where)
    if found is None:
        metadata.create_all(connection)
        rows = {"schema": str(SCHEMA), "passel": __version__}
        connection.execute(meta.insert(), [{"name": n, "value": v} for n, v in rows.items()])
        return
    for step in range(found, SCHEMA):
        if step not in MIGRATIONS:
            raise TooOld(f"database {where} has schema {found}; this passel reads {SCHEMA}")
        MIGRATIONS[step](connection)
    if found < SCHEMA:
        connection.execute(meta.update().where(meta.c.name == "schema").values(value=str(SCHEMA)))


def version(connection: sa.Connection, where: str) -> int | None:
    """The schema's version, None where there is none yet.

    Raises:
        InvalidInput: it is newer than ours, or no number.
    """
    if not sa.inspect(connection).has_table(meta.name):
        return None
    rows = connection.execute(sa.select(meta.c.name, meta.c.value)).all()
    found = {name: value for name, value in rows}
    text = found.get("schema", "")
    if not text.isdigit():
        raise TooOld(f"database {where} names no schema version")
    if int(text) > SCHEMA:
        raise InvalidInput(
            f"database {where} was written by passel {found.get('passel', 'of a later version')} "
            f"(schema {text}; this is passel {__version__}, schema {SCHEMA}): upgrade passel, or "
            "use another database"
        )
    return int(text)
