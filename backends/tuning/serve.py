"""The side of a candidate: a process that builds plans and times them on demand.

The parent writes one JSON object a line on standard input: {"do": "build", "plan": {...}}, then
"verify", "time" or "peak"; each is answered by one line on what was standard output. Libraries that
print find standard error there instead. The process ends with its input, or with its parent.
"""

import ctypes
import gc
import json
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TextIO

from .. import resident
from ..measure import settle, timed
from .plan import Plan

CLEAR = Path("/proc/self/clear_refs")
DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux's prctl."""


class Candidate(Protocol):
    """A plan, built."""

    plan: Plan
    fingerprint: str
    """Equal where two plans make programs that cost the same."""

    def call(self) -> object:
        """Run once, on the inputs that are timed."""

    def verify(self) -> tuple[float, str]:
        """The relative error, and what is wrong with it ("" for nothing)."""


Build = Callable[[Plan], Candidate]


def serve(build: Build, orders: TextIO, answers: TextIO) -> None:
    """Answer orders until there are no more."""
    held: list[Candidate] = []
    for line in orders:
        answer = _answered(build, json.loads(line), held)
        settle()  # whoever is timed next is not to notice this process
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _answered(build: Build, order: dict[str, Any], held: list[Candidate]) -> dict[str, Any]:
    """What one order gives; an error, of whatever kind, is an answer about the candidate too."""
    try:
        if order["do"] == "build":
            held.clear()
            gc.collect()
            held.append(build(Plan.from_dict(order["plan"])))
            return {"fingerprint": held[0].fingerprint}
        if order["do"] == "verify":
            error, wrong = held[0].verify()
            return {"error": error, "wrong": wrong}
        if order["do"] == "time":
            return {"seconds": timed_streams(held[0], order["calls"])}
        return {"bytes": peak_bytes(held[0], order["calls"])}
    except Exception as error:
        first = (str(error).strip() or repr(error)).splitlines()[0]
        return {"failed": type(error).__name__, "why": first}


def timed_streams(candidate: Candidate, calls: int) -> list[float]:
    """Seconds a call takes, for `calls` calls in a row; with streams, wall time over their number.

    With streams each of `calls` rounds lets every stream make one call at the same time.
    """
    streams = candidate.plan.streams
    if streams == 1:
        return timed(candidate.call, calls)
    with ThreadPoolExecutor(streams) as pool:

        def together() -> None:
            for future in [pool.submit(candidate.call) for _ in range(streams)]:
                future.result()

        return [seconds / streams for seconds in timed(together, calls)]


def peak_bytes(candidate: Candidate, calls: int) -> int:
    """Largest resident memory of this process while it runs, building left out.

    What building freed goes back to the system first, and the system forgets its peak, where it
    can (Linux); elsewhere the peak includes the building.
    """
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        CLEAR.write_text("5", encoding="ascii")
    timed_streams(candidate, calls)
    return resident.peak_bytes()


def private_output() -> TextIO:
    """Standard output for answers alone; what else is printed goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def die_with_parent() -> None:
    """Let the system end this process when its parent is killed, also in the middle of a call."""
    parent = os.getppid()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
