"""What a Mixture-of-Depths decoder saves: latency against operations, KV cache and peak memory.

python -m passel.tools.bench.routing
python -m passel.tools.bench.routing --seconds 30 --json routing.json

The routed p-MoD decoder and its twin without routers, both compiled by passel, and the routed one
as torch.onnx writes it (dense with masks); a process each, turns interleaved. Operations and KV
bytes are those of passel's report.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from ...backends.hardware import Hardware

if TYPE_CHECKING:
    from ...passes.report import Size

ROUTED, DENSE, MASKED = "passel", "passel@pmod_dense", "onnxruntime"
LIMIT = 1.10
"""How much more than its share of operations the routed model may take of the time."""

app = typer.Typer(add_completion=False)


@app.command()
def main(
    seconds: Annotated[float, typer.Option(help="measuring time per side")] = 15.0,
    threads: Annotated[int, typer.Option(help="threads per side (0: all cores)")] = 0,
    json_path: Annotated[Path | None, typer.Option("--json", help="write the numbers here")] = None,
) -> None:
    """Measure the p-MoD decoder (576 vision and 64 text tokens, 24 layers)."""
    from .latency import compare

    console, err = Console(), Console(stderr=True)
    with err.status("counting") as status:
        before, routed, dense = sizes()
        sides = (ROUTED, DENSE, MASKED)
        count = threads or Hardware.detect().usable_cores
        rows = compare("pmod", sides, seconds=seconds, threads=count, progress=status.update)
    console.print(table(rows, {ROUTED: routed, DENSE: dense, MASKED: before}))
    share = routed.flops / dense.flops
    ratio = rows[ROUTED]["median_ms"] / rows[DENSE]["median_ms"]
    console.print(f"operations: {share:.3f} of the dense twin's")
    console.print(f"latency: {ratio:.3f} of it, {ratio / share:.3f}x the share (limit {LIMIT})")
    kept = routed.kv_bytes / before.kv_bytes
    vision = vision_share(routed)
    console.print(f"KV cache: {kept:.1%} of all tokens, {vision:.1%} of vision tokens")
    if json_path is not None:
        found = {"sides": rows, "flops_share": share, "latency_ratio": ratio, "kv_share": kept}
        json_path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def sizes() -> "tuple[Size, Size, Size]":
    """The routed model before and after the passes, and the dense twin after them."""
    from ...compiler import optimize
    from .models import load

    routed, dense = (optimize(*load(name), verify=False).report for name in ("pmod", "pmod_dense"))
    return routed.before, routed.after, dense.after


def vision_share(size: "Size") -> float:
    """Mean share of vision tokens whose keys a layer holds."""
    from ...models import PMOD_BENCH

    text = PMOD_BENCH.text_tokens
    shares = [(int(layer.keys) - text) / PMOD_BENCH.vision_tokens for layer in size.layers]
    return sum(shares) / len(shares)


def table(rows: dict[str, dict[str, float]], counted: "dict[str, Size]") -> Table:
    """One row a side."""
    drawn = Table(title="p-MoD decoder, prefill", title_justify="left")
    for heading in ("side", "median ms", "p25–p75 ms", "GFLOPs", "KV MB", "peak MiB", "calls"):
        drawn.add_column(heading, justify="left" if heading == "side" else "right")
    for name, row in rows.items():
        size = counted[name]
        spread = f"{row['p25_ms']:.1f}–{row['p75_ms']:.1f}"
        numbers = f"{size.flops / 1e9:.1f}", f"{size.kv_bytes / 1e6:.1f}", f"{row['peak_mib']:.0f}"
        drawn.add_row(name, f"{row['median_ms']:.1f}", spread, *numbers, f"{row['calls']:.0f}")
    return drawn


if __name__ == "__main__":
    app()
