"""The command `passel target`: what this machine is, and whether a target is there."""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from . import cli_options as options
from .cli_commands import app

if TYPE_CHECKING:
    from rich.table import Table

    from ..backends.hardware import Hardware
    from ..backends.target import Target

Text = Annotated[
    str, typer.Argument(metavar="TARGET", help="cpu, cuda, or in full: cuda:arch=sm_90")
]


@app.command()
def target(context: typer.Context, text: Text = "cpu", as_json: options.AsJson = False) -> None:
    """Show this machine as a target: instruction sets, cores, limits, memory, GPUs, runtimes.

    \b
    passel target
    passel target cpu:arch=haswell,threads=4       can code for it run here?
    passel target --json | jq .hardware.features
    """
    from ..backends.hardware import Hardware
    from ..backends.target import Target

    screen = context.obj
    with screen.working() as working:
        working.say("looking at this machine")
        hardware = Hardware.detect()
        found = Target.of(text).resolved(hardware)
    if as_json:
        screen.print_json(facts(found, hardware))
    else:
        screen.print(table(found, hardware))


def facts(target: "Target", hardware: "Hardware") -> dict[str, object]:
    """Everything as JSON writes it."""
    from ..backends.cache_folder import cache_folder
    from ..backends.hardware import fingerprint, providers

    return {
        "target": str(target),
        "absent": target.absent(hardware),
        "fingerprint": fingerprint(hardware, target),
        "hardware": {**asdict(hardware), "runtimes": dict(hardware.runtimes)},
        "providers": providers(),
        "cache": str(cache_folder()),
    }


def table(target: "Target", hardware: "Hardware") -> "Table":
    """Everything for people."""
    from .cli_tables import columns

    found = facts(target, hardware)
    own = target.features == hardware.features  # which have a line of their own
    shown = columns("", "", left=(0, 1))
    shown.show_header = False
    shown.add_row("target", str(replace(target, features=()) if own else target))
    shown.add_row("runs here", f"no: {found['absent']}" if found["absent"] else "yes")
    shown.add_row("CPU", hardware.cpu or "unknown")
    shown.add_row("features", " ".join(hardware.features) or "none that are known here")
    shown.add_row("cores", cores(hardware))
    shown.add_row("memory", memory(hardware))
    for position, line in enumerate(gpu_lines(hardware)):
        shown.add_row("" if position else "GPUs", line)
    for position, line in enumerate(runtime_lines(hardware)):
        shown.add_row("" if position else "runtimes", line)
    shown.add_row("fingerprint", str(found["fingerprint"]))
    shown.add_row("cache", str(found["cache"]))
    return shown


def cores(hardware: "Hardware") -> str:
    """Cores, hyperthreads, and how many of them this process may keep busy."""
    threads = hardware.logical_cores - hardware.physical_cores
    parts = [f"{hardware.physical_cores}", f"{threads} more hyperthreads" if threads else ""]
    if hardware.cpu_limit is not None:
        parts.append(f"control groups allow {hardware.cpu_limit:g} CPUs")
    parts.append(f"usable by this process: {hardware.usable_cores}")
    return ", ".join(part for part in parts if part)


def memory(hardware: "Hardware") -> str:
    """Memory, and what control groups allow of it."""
    from .cli_tables import size

    limit = hardware.memory_limit
    allowed = "" if limit is None else f", control groups allow {size(limit)}"
    return (size(hardware.memory) if hardware.memory else "unknown") + allowed


def gpu_lines(hardware: "Hardware") -> list[str]:
    """A line for each GPU."""
    from .cli_tables import size

    lines = [f"{gpu.name}, {gpu.arch}, {size(gpu.memory)}" for gpu in hardware.gpus]
    return lines or ["none"]


def runtime_lines(hardware: "Hardware") -> list[str]:
    """A line for each runtime: its version, or that it is missing."""
    from ..backends.hardware import RUNTIMES, providers

    found = dict(hardware.runtimes)
    lines = {name: f"{name} {found.get(name, 'is not installed')}" for name in RUNTIMES}
    if offered := providers():
        lines["onnxruntime"] += f" ({', '.join(offered)})"
    return list(lines.values())
