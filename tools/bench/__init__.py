"""`passel bench`: latency against plain ONNX Runtime, torch.compile and eager, side by side."""

import json
import os
import platform
import time
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ...backends.hardware import Hardware, version_of

PACKAGES = (
    *("torch", "onnx", "onnxruntime", "onnxscript", "transformers", "numpy"),
    *("apache-tvm", "apache-tvm-ffi"),
)
app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
def bench(
    models: Annotated[
        list[str] | None, typer.Argument(help="models to run (default: vit_s16 gpt2)")
    ] = None,
    side: Annotated[
        list[str] | None,
        typer.Option(
            help="eager, torch.compile, onnxruntime, push-tokens, passel, autotuned, tvm, "
            "tvm-tuned; repeatable"
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(help="measuring time per side and model")] = 10.0,
    threads: Annotated[int, typer.Option(help="threads per side (0: all cores)")] = 0,
    budget: Annotated[
        str, typer.Option(help="how long the sides that search may take, a model: 30s, 10min")
    ] = "10min",
    json_path: Annotated[Path | None, typer.Option("--json", help="write the numbers here")] = None,
) -> None:
    """Measure latency side by side.

    Every side runs in a process of its own; turns are interleaved, so drift of the machine hits all
    alike. Read the ratios, not the times. Close what else is running first.

      passel bench                          ViT-S/16 and GPT-2, all sides
      passel bench vit_s16 --seconds 30 --json vit.json
    """
    from .latency import compare
    from .models import DEFAULT, MODELS
    from .worker import BUDGET, DEFAULT_SIDES, SIDES

    chosen, sides = models or list(DEFAULT), side or list(DEFAULT_SIDES)
    _known("model", chosen, MODELS)
    _known("side", sides, SIDES)
    count = threads or Hardware.detect().usable_cores
    os.environ[BUDGET] = budget
    console, err = Console(), Console(stderr=True)
    results = {}
    with err.status("starting") as status:
        for name in chosen:
            results[name] = compare(
                name, sides, seconds=seconds, threads=count, progress=status.update
            )
    for name, rows in results.items():
        console.print(table(name, rows, count))
    if json_path is not None:
        content = {"machine": machine(count), "models": results}
        temporary = json_path.with_name(f".{json_path.name}.tmp")
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        temporary.replace(json_path)


def _known(what: str, names: list[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"unknown {what} {name!r}; there are {', '.join(known)}")


def table(model: str, rows: "dict[str, dict[str, float]]", threads: int) -> Table:
    """One model's results."""
    drawn = Table(title=f"{model}, {threads} threads", title_justify="left")
    for heading in ("side", "median ms", "p25–p75 ms", "vs onnxruntime", "peak MiB", "calls"):
        drawn.add_column(heading, justify="left" if heading == "side" else "right")
    for name, row in rows.items():
        spread = f"{row['p25_ms']:.2f}–{row['p75_ms']:.2f}"
        ratio = f"{row['speedup']:.3f}×" if "speedup" in row else "-"
        calls, peak = f"{row['calls']:.0f}", f"{row['peak_mib']:.0f}"
        drawn.add_row(name, f"{row['median_ms']:.2f}", spread, ratio, peak, calls)
    return drawn


def machine(threads: int) -> "dict[str, object]":
    """What the numbers were measured on."""
    return {
        "cpu": _cpu_name(),
        "cores": Hardware.detect().physical_cores,
        "threads": threads,
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := version_of(name))},
        "date": time.strftime("%Y-%m-%d"),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main(argv: "list[str] | None" = None) -> int:
    """Entry point of `passel bench` and `python -m passel.tools.bench`."""
    result = app(args=argv, standalone_mode=False)
    return result if isinstance(result, int) else 0
