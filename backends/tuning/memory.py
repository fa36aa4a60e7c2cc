"""What a search leaves behind for later calls: its key, its plan, and how far it went."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...errors import PasselError
from ...graph import Graph
from ...passes.base import AnyPass
from ...passes.registry import DEFAULT
from ..cache_folder import database_file
from ..hardware import Hardware, fingerprint
from ..target import Target
from .glimpse import glimpse
from .graph_key import graph_key
from .plan import SEARCH, Plan
from .records import Key, Record
from .search import Found
from .standing import Limits

if TYPE_CHECKING:
    from .database import Database


def key_of(
    graph: Graph,
    inputs: Sequence[torch.Tensor],
    target: Target,
    *,
    objective: str = "latency",
    bound: float | None = None,
    passes: Sequence[AnyPass] = DEFAULT,
    threads: int = 0,
) -> Key:
    """What a result holds for.

    Args:
        graph: of the model before any pass.
        inputs: those that are timed; their sizes count where the model's are symbolic.
        bound: relative error that is allowed, None for none but rounding's.
        passes: what may run; threads: what is fixed. Either counts where it is not the default.
    """
    hardware = Hardware.detect()
    parts = [graph_key(graph)]
    if any(not isinstance(extent, int) for value in graph.inputs for extent in value.shape or ()):
        parts.append(str([tuple(tensor.shape) for tensor in inputs]))
    specs = [one.spec for one in passes]
    if specs != [one.spec for one in DEFAULT]:
        parts.append(str(specs))
    if threads:
        parts.append(f"{threads} threads")
    named = parts[0] if len(parts) == 1 else hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return Key(named, fingerprint(hardware, target), hardware.versions, objective, bound)


@dataclass(frozen=True)
class Remembered:
    """A plan from the database.

    Attributes:
        record: with its costs.
        search: how it was found: "seconds", "exhausted", "history", "outcomes".
    """

    plan: Plan
    record: Record
    search: dict[str, Any]

    def covers(self, limits: Limits) -> bool:
        """Whether a search with these limits would end at once."""
        if self.search.get("exhausted", False):
            return True
        if limits.trials is not None and self.record.trials >= limits.trials:
            return True
        return limits.seconds is not None and self.search.get("seconds", 0.0) >= limits.seconds


def recalled(database: "Database", key: Key) -> Remembered | None:
    """The plan of a key; one that cannot be read any more is forgotten."""
    record = database.best(key)
    if record is None:
        return None
    found = _understood(record)
    if found is None:
        database.forget(key)
    return found


def glimpsed(file: Path, key: Key) -> Remembered | None:
    """The plan of a key in a SQLite file, if it can be read without more ado."""
    record = glimpse(file, key)
    return None if record is None else _understood(record)


def _understood(record: Record) -> Remembered | None:
    """The record with its plan, None where that is of no use any more."""
    try:
        plan = Plan.from_json(record.plan)
    except PasselError:
        return None
    return Remembered(plan, record, json.loads(record.plan).get(SEARCH, {}))


def remember(database: "Database", key: Key, found: Found, model: str) -> Remembered:
    """Keep what a search found, unless a better plan is there; how far it went counts either way.

    Returns what is remembered then.
    """
    search = history_of(found)
    record = Record(
        key,
        _text(found.plan, search),
        found.cost,
        found.baseline,
        found.error,
        found.standing.tried,
        model,
    )
    if not database.store(record):
        old = recalled(database, key)
        if old is not None:
            effort = {name: search[name] for name in ("seconds", "exhausted", "outcomes")}
            search = {**old.search, **effort}
            tried = max(old.record.trials, record.trials)
            record = replace(old.record, plan=_text(old.plan, search), trials=tried)
            database.forget(key)
            database.store(record)
    return recalled(database, key) or Remembered(found.plan, record, search)


def history_of(found: Found) -> dict[str, Any]:
    """How a plan was found, as plain data."""
    standing, spent = found.standing, found.standing.spent
    limits = standing.limits
    if not found.interrupted and limits.seconds is not None and spent >= limits.search_seconds:
        spent = max(spent, limits.seconds)  # it was the time that ended it
    return {
        "seconds": round(spent, 2),
        "exhausted": found.exhausted,
        "confirmed": found.confirmed,
        "history": standing.history,
        "outcomes": dict(standing.counts),
    }


def _text(plan: Plan, search: dict[str, Any]) -> str:
    return json.dumps({**plan.to_dict(), SEARCH: search}, sort_keys=True)


def tuned_plan(
    graph: Graph, inputs: Sequence[torch.Tensor], target: "str | Target" = "cpu", threads: int = 0
) -> Plan | None:
    """The plan of lowest latency that an earlier search found for a graph, for the default passes.

    Looks only where there is a database already, and never fails: a database that cannot be read
    is as good as none.
    """
    try:
        found = glimpsed(database_file(), key_of(graph, inputs, Target.of(target), threads=threads))
    except PasselError:
        return None
    return None if found is None else found.plan
