"""What the passes cost: seconds on ViT-B, and peak memory on a large ONNX file with external data.

    python -m passel.tools.bench.footprint            both, the file with 3 GB of weights
    python -m passel.tools.bench.footprint --gigabytes 0.5

The file is synthetic: pre-LN blocks of LayerNorm, MatMul, Gelu, MatMul, Add. It is written sparsely
random in a folder of its own, optimized in a process of its own, and deleted. Peak memory is that
process's maximum resident set, memory-mapped pages included, less what the imports take.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx_ir as ir
import typer
from rich.console import Console

from ...backends.resident import peak_bytes, resident_bytes
from ...errors import PasselError

WIDTH, HIDDEN = 2048, 8192
BLOCK_BYTES = 2 * WIDTH * HIDDEN * 4

app = typer.Typer(add_completion=False)


@app.command()
def main(
    gigabytes: Annotated[float, typer.Option(help="size of the synthetic file's weights")] = 3.0,
    folder: Annotated[Path | None, typer.Option(help="where to put it")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="write the numbers here")] = None,
) -> None:
    """Measure both costs."""
    console = Console()
    found = {"vit_b_passes_seconds": vit_b_seconds()}
    console.print(f"passes on ViT-B/16: {found['vit_b_passes_seconds']:.2f} s (limit 1 s)")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        source = Path(scratch) / "large.onnx"
        with console.status("writing the synthetic file"):
            blocks = write_synthetic(source, gigabytes)
        with console.status(f"optimizing {blocks} blocks, {blocks * BLOCK_BYTES / 1e9:.2f} GB"):
            found |= optimize_apart(source)
    model, tensor = blocks * BLOCK_BYTES, WIDTH * HIDDEN * 4
    found |= {"model_bytes": model, "limit_bytes": model + 2 * tensor}
    size, peak, limit = (x / 1e9 for x in (model, found["peak_bytes"], found["limit_bytes"]))
    console.print(
        f"{size:.2f} GB file: {found['seconds']:.1f} s, peak {peak:.2f} GB "
        f"(limit: model + 2 × largest tensor = {limit:.2f} GB)"
    )
    if json_path is not None:
        json_path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def vit_b_seconds() -> float:
    """Lift, default passes and lowering of ViT-B/16 (86 M parameters), without torch.export."""
    import torch

    from ...capture import quiet
    from ...passes.registry import resolve
    from ...pipeline import Job
    from .models import load

    model, inputs = load("vit_b16")
    with torch.no_grad(), quiet():
        program = torch.export.export(model, inputs, strict=False)
    job = Job.of("default", (), None)
    assert resolve("default") == job.passes
    start = time.perf_counter()
    job.run(program)
    return time.perf_counter() - start


def write_synthetic(path: Path, gigabytes: float) -> int:
    """Write the file block by block through a memory map; returns the number of blocks."""
    blocks = max(1, round(gigabytes * 1e9 / BLOCK_BYTES))
    data = np.memmap(
        path.with_suffix(".onnx.data"), np.float32, "w+", shape=blocks * BLOCK_BYTES // 4
    )
    generator = np.random.default_rng(0)
    row = generator.standard_normal(WIDTH * HIDDEN // 64, dtype=np.float32) * 0.02
    for start in range(0, len(data), len(row)):
        data[start : start + len(row)] = row
    data.flush()
    del data
    ir.save(synthetic(blocks, path.name + ".data", path.parent), path)
    return blocks


def synthetic(blocks: int, location: str, base: Path) -> ir.Model:
    """The model, its matrices pointing into the data file."""
    x = ir.Value(name="x", shape=ir.Shape([1, 4, WIDTH]), type=ir.TensorType(ir.DataType.FLOAT))
    nodes: list[ir.Node] = []
    constants: list[ir.Value] = []

    def constant(name: str, tensor: ir.TensorProtocol) -> ir.Value:
        shape, kind = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
        value = ir.Value(name=name, shape=shape, type=kind)
        value.const_value = tensor
        constants.append(value)
        return value

    def matrix(name: str, index: int, shape: tuple[int, int]) -> ir.Value:
        size = WIDTH * HIDDEN * 4
        tensor = ir.ExternalTensor(
            location, index * size, size, ir.DataType.FLOAT,
            shape=ir.Shape(shape), name=name, base_dir=str(base),
        )  # fmt: skip
        return constant(name, tensor)

    def node(op: str, *inputs: ir.Value) -> ir.Value:
        made = ir.Node("", op, inputs, name=f"{op}_{len(nodes)}")
        nodes.append(made)
        made.outputs[0].name = f"v{len(nodes)}"
        return made.outputs[0]

    generator = np.random.default_rng(1)

    def vector(name: str) -> ir.Value:
        array = (1 + 0.1 * generator.standard_normal(WIDTH)).astype(np.float32)
        return constant(name, ir.Tensor(array, name=name))

    first = constant("embed", ir.Tensor(np.eye(WIDTH, dtype=np.float32), name="embed"))
    value = node("MatMul", x, first)
    for block in range(blocks):
        normal = node("LayerNormalization", value, vector(f"g{block}"), vector(f"b{block}"))
        up = node("Gelu", node("MatMul", normal, matrix(f"up{block}", 2 * block, (WIDTH, HIDDEN))))
        down = node("MatMul", up, matrix(f"down{block}", 2 * block + 1, (HIDDEN, WIDTH)))
        value = node("Add", value, down)
    value = node("LayerNormalization", value, vector("g"), vector("b"))
    head = constant("head", ir.Tensor(np.ones((WIDTH, 8), dtype=np.float32), name="head"))
    result = node("MatMul", value, head)
    result.name, result.type = "y", ir.TensorType(ir.DataType.FLOAT)
    result.shape = ir.Shape([1, 4, 8])
    graph = ir.Graph([x], [result], nodes=nodes, initializers=constants, opset_imports={"": 20})
    return ir.Model(graph, ir_version=10)


def optimize_apart(source: Path) -> dict[str, float]:
    """Run `optimize_file` in a new process and read its numbers."""
    command = [sys.executable, "-W", "ignore", "-c"]
    code = f"from passel.tools.bench.footprint import optimize_file; optimize_file({str(source)!r})"
    done = subprocess.run([*command, code], capture_output=True, text=True)
    if done.returncode:
        raise PasselError(f"footprint: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    answer: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def optimize_file(source: str) -> None:
    """Optimize one file into another, and print seconds and peak memory as JSON."""
    from ...compiler import export_onnx

    imports = resident_bytes()
    start = time.perf_counter()
    report = export_onnx(source, None, source.replace(".onnx", ".out.onnx"), verify=False)
    seconds = time.perf_counter() - start
    peak = peak_bytes()
    converted = sum(len(entry.applied) for entry in report.passes if entry.name == "recenter")
    answer = {"seconds": seconds, "peak_bytes": peak - imports, "imports_bytes": imports}
    print(json.dumps(answer | {"streams_recentred": converted}))


if __name__ == "__main__":
    app()
