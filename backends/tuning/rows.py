"""Statements on the tables: records in and out."""

from collections.abc import Sequence

import sqlalchemy as sa

from .records import Key, Record
from .schema import NAME_LENGTH, models, results

PARAMETERS = 500
"""How many values a statement may hold: SQLite once took no more than 999."""


def select() -> sa.Select:
    """Every record with its model's name."""
    return sa.select(results, models.c.name).join(models, results.c.graph == models.c.graph)


def record_of(row: sa.Row) -> Record:
    """The record that a row of `select` holds."""
    key = Key(row.graph, row.hardware, row.versions, row.objective, row.bound)
    return Record(
        key,
        plan=row.plan,
        cost=row.cost,
        baseline=row.baseline,
        error=row.error,
        trials=row.trials,
        model=row.name,
        created=row.created,
        updated=row.updated,
    )


def put(connection: sa.Connection, record: Record) -> bool:
    """Store a record unless one at least as good is there; whether it was stored.

    Raises:
        sqlalchemy.exc.IntegrityError: another process has just stored the same key or graph.
    """
    name_model(connection, record)
    kept = improve(connection, record)
    if kept is None:
        add(connection, record)
    return kept is not False


def name_model(connection: sa.Connection, record: Record) -> None:
    """Enter the record's graph into the table of models, or give its name to a nameless one."""
    called = record.model[:NAME_LENGTH]
    found = connection.execute(sa.select(models.c.name).where(models.c.graph == record.key.graph))
    name = found.scalar()
    if name is None:
        row = {"graph": record.key.graph, "name": called, "first_seen": record.created}
        connection.execute(models.insert().values(row))
    elif called and not name:
        chosen = models.c.graph == record.key.graph
        connection.execute(models.update().where(chosen).values(name=called))


def improve(connection: sa.Connection, record: Record) -> bool | None:
    """Put a record in the place of a worse one; None where there is none of its key.

    One statement, so that of two processes that store at once the better wins. Equal is not better.
    """
    chosen = results.c.digest == record.key.digest
    better = sa.and_(chosen, results.c.ratio > record.ratio)
    values = _values(record)
    del values["created"]
    values["trials"] = sa.case(
        (results.c.trials > record.trials, results.c.trials), else_=record.trials
    )
    if connection.execute(results.update().where(better).values(values)).rowcount:
        return True
    more = sa.and_(chosen, results.c.trials < record.trials)
    connection.execute(results.update().where(more).values(trials=record.trials))
    exists = connection.execute(sa.select(results.c.digest).where(chosen)).first()
    return None if exists is None else False


def remove(connection: sa.Connection, digests: Sequence[str]) -> int:
    """Delete records by their key's digest, and the models that then have none; how many went."""
    gone = 0
    for start in range(0, len(digests), PARAMETERS):
        chosen = digests[start : start + PARAMETERS]
        gone += connection.execute(results.delete().where(results.c.digest.in_(chosen))).rowcount
    connection.execute(models.delete().where(models.c.graph.not_in(sa.select(results.c.graph))))
    return gone


def add(connection: sa.Connection, record: Record) -> None:
    """Insert a record; raises IntegrityError if its key is there."""
    connection.execute(results.insert().values({"digest": record.key.digest, **_values(record)}))


def _values(record: Record) -> dict[str, object]:
    key = record.key
    return {
        "graph": key.graph,
        "hardware": key.hardware,
        "versions": key.versions,
        "objective": key.objective,
        "bound": key.bound,
        "plan": record.plan,
        "cost": record.cost,
        "baseline": record.baseline,
        "ratio": record.ratio,
        "error": record.error,
        "trials": record.trials,
        "created": record.created,
        "updated": record.updated,
    }
