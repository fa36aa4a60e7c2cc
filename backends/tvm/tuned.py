"""Schedules that were found by measurement: what wins for each kernel, kept as JSON.

A winner is either one of our own rules with other decisions than its formula takes, or a trace of
MetaSchedule: the primitives that make the schedule, to be replayed.
"""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ...errors import InvalidModel
from .available import TVM
from .machine import Machine

if TYPE_CHECKING:
    import tvm

FILE = "winners.json"
FORMAT = 1


@dataclass(frozen=True)
class Winner:
    """The fastest schedule of a kernel.

    Attributes:
        microseconds: of one call.
        before: of one call under the schedule without tuning, measured beside it.
        decisions: what our rule is told to decide; empty for a trace.
        trace: MetaSchedule's, as JSON; "" for our own rule.
    """

    microseconds: float
    before: float
    decisions: Mapping[str, str] = field(default_factory=dict)
    trace: str = ""


@dataclass
class Tuned:
    """What is known of a module's kernels.

    Attributes:
        winners: by kernel (`kernel_key`); a kernel that is not here keeps its own schedule.
        settled: kernels whose own rule has nothing left to try.
        trials: measurements of MetaSchedule so far.
        notes: what the user should know.
        spent: seconds that each module was tuned for (`structural_key`).
    """

    winners: dict[str, Winner] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)
    trials: int = 0
    notes: list[str] = field(default_factory=list)
    spent: dict[str, float] = field(default_factory=dict)

    def measured(self, function: "tvm.tirx.PrimFunc", machine: Machine) -> Any:
        """The schedule that won for a kernel, or None: a rule to be asked before all others."""
        winner = self.winners.get(kernel_key(function))
        return None if winner is None else scheduled_by(winner, function, machine)

    def to_json(self) -> str:
        """As text."""
        plain = {
            "format": FORMAT,
            "tvm": TVM,
            "winners": {key: asdict(winner) for key, winner in sorted(self.winners.items())},
            "settled": sorted(self.settled),
            "trials": self.trials,
            "notes": self.notes,
            "spent": self.spent,
        }
        return json.dumps(plain, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """From text; of another TVM or format, nothing is taken over.

        Raises:
            InvalidModel: the text is damaged.
        """
        try:
            plain = json.loads(text)
            if (plain["format"], plain["tvm"]) != (FORMAT, TVM):
                return cls()
            winners = {key: Winner(**one) for key, one in plain["winners"].items()}
            settled, notes = set(plain["settled"]), list(plain["notes"])
            spent = {key: float(seconds) for key, seconds in plain.get("spent", {}).items()}
            return cls(winners, settled, int(plain["trials"]), notes, spent)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidModel(f"the tuned schedules are damaged: {error!r}") from error

    def save(self, folder: Path) -> None:
        """Write the file of a folder anew, as a whole."""
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{FILE}.{os.getpid()}"
        temporary.write_text(self.to_json() + "\n", encoding="utf-8")
        temporary.replace(folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What a folder holds; a damaged file is set aside under another name."""
        path = folder / FILE
        if not path.is_file():
            return cls()
        try:
            return cls.from_json(path.read_text(encoding="utf-8", errors="replace"))
        except InvalidModel:
            aside = path.with_suffix(".damaged")
            with contextlib.suppress(OSError):
                path.replace(aside)
            return cls(notes=[f"{str(path)!r} is damaged; it was set aside as {aside.name!r}"])


def kernel_key(function: "tvm.tirx.PrimFunc") -> str:
    """The same for kernels that are equal but for their names, in any process."""
    if function.attrs and "global_symbol" in function.attrs:
        function = function.without_attr("global_symbol")
    return structural_key(function)


def structural_key(node: Any) -> str:
    """The same for equal modules or functions, in any process."""
    import tvm_ffi

    return f"{tvm_ffi.structural_hash(node) % 2**64:016x}"


def scheduled_by(winner: Winner, function: "tvm.tirx.PrimFunc", machine: Machine) -> Any:
    """The schedule of a winner; None where it no longer applies."""
    if winner.trace:
        return replayed(winner.trace, function)
    return by_rules(function, machine, winner.decisions)[0]


def form_of(schedule: Any) -> "tvm.tirx.PrimFunc":
    """The kernel that a schedule makes, as `schedules.schedule` puts it into a module."""
    from .schedules.vector_math import expand

    return expand(schedule.mod["main"])


def by_rules(
    function: "tvm.tirx.PrimFunc", machine: Machine, decisions: Mapping[str, str]
) -> tuple[Any, dict[str, list[str]]]:
    """What the first rule makes of a kernel, and what it was free to decide."""
    import tvm

    from .schedules import rules
    from .schedules.decide import taking

    for rule in rules():
        with taking(decisions) as offered:
            try:
                found = rule(function, machine)
            except (tvm.error.InternalError, tvm.s_tir.ScheduleError):
                continue  # as in `schedules.schedule`: the next rule may take it
        if found is not None:
            return found, offered
    return None, {}


def replayed(trace: str, function: "tvm.tirx.PrimFunc") -> Any:
    """The schedule that a trace makes; None where it does not fit the kernel."""
    import tvm
    from tvm import s_tir

    schedule = s_tir.Schedule(tvm.IRModule({"main": function}))
    try:
        s_tir.schedule.Trace.apply_json_to_schedule(json.loads(trace), schedule)
    except (RuntimeError, ValueError, TypeError):
        return None
    return schedule
