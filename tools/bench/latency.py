"""Latency of several sides on one model: a process each, interleaved turns, medians."""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

from ...errors import PasselError

TURN_SECONDS = 0.25


@dataclass
class Side:
    """One process under test.

    Attributes:
        seconds: times of the calls so far.
        peak_bytes: peak resident memory of its process, export and compilation included.
    """

    name: str
    process: "subprocess.Popen[str]"
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    @classmethod
    def start(cls, name: str, model: str, threads: int) -> Self:
        """Start the process and wait until it is warm; "side@model" is a side on another model."""
        kind, _, other = name.partition("@")
        return cls.launch(name, "passel.tools.bench.worker", kind, other or model, str(threads))

    @classmethod
    def launch(cls, name: str, module: str, *arguments: str) -> Self:
        """Start a module that says "ready", then answers numbers of calls with lists of seconds."""
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        side = cls(name, process)
        side._answer()
        return side

    def turn(self, calls: int) -> list[float]:
        """Time some calls; the first, which wakes the process up, is not counted."""
        found = self._ask(calls + 1)[1:]
        self.seconds += found
        return found

    def stop(self) -> None:
        """End the process and note its peak memory."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        answer = self._answer()
        assert isinstance(answer, int)
        self.peak_bytes = answer
        self.process.wait()

    def _ask(self, calls: int) -> list[float]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{calls}\n")
        self.process.stdin.flush()
        answer = self._answer()
        assert isinstance(answer, list)
        return answer

    def _answer(self) -> "list[float] | int | str":
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line[:1] in ("[", '"') or line.strip().isdigit():
                answer: list[float] | int | str = json.loads(line)
                return answer
        assert self.process.stderr is not None
        last = self.process.stderr.read().strip().splitlines()[-1:] or ["no message"]
        raise PasselError(f"bench: side {self.name!r} stopped: {last[0]}")


def compare(
    model: str,
    sides: Sequence[str],
    *,
    seconds: float,
    threads: int,
    progress: Callable[[str], None],
) -> dict[str, dict[str, float]]:
    """Median latency (ms), ratio to plain ONNX Runtime and peak memory of each side."""
    running: list[Side] = []
    try:
        for name in sides:
            progress(f"{model}: starting {name}")
            running.append(Side.start(name, model, threads))
        interleave(running, seconds, lambda what: progress(f"{model}: {what}"))
        for side in running:
            side.stop()
    finally:
        for side in running:
            side.process.kill()
    return summary(running)


def interleave(sides: Sequence[Side], seconds: float, progress: Callable[[str], None]) -> None:
    """Time all sides in turns, each for `seconds` in all; the order alternates."""
    calls = {s.name: max(1, int(TURN_SECONDS / min(s.turn(2)))) for s in sides}
    turns = max(3, int(seconds / TURN_SECONDS))
    for turn in range(turns):
        progress(f"turn {turn + 1} of {turns}")
        for side in sides[:: 1 if turn % 2 == 0 else -1]:
            side.turn(calls[side.name])


def summary(sides: Sequence[Side]) -> dict[str, dict[str, float]]:
    """Medians, quartiles, and how many times faster than plain ONNX Runtime."""
    found: dict[str, dict[str, float]] = {}
    for side in sides:
        quartiles = statistics.quantiles(side.seconds, n=4)
        found[side.name] = {
            "median_ms": statistics.median(side.seconds) * 1e3,
            "p25_ms": quartiles[0] * 1e3,
            "p75_ms": quartiles[2] * 1e3,
            "min_ms": min(side.seconds) * 1e3,
            "calls": len(side.seconds),
            "peak_mib": side.peak_bytes / 2**20,
        }
    base = found.get("onnxruntime")
    for row in found.values():
        if base is not None:
            row["speedup"] = base["median_ms"] / row["median_ms"]
    return found
