"""`make demo`: compile a transformer, optimize a trained ONNX file, and compare with ONNX Runtime.

Takes about a minute and writes only to a temporary folder.
"""

import tempfile
from functools import partial
from pathlib import Path

import onnx_ir as ir
import torch
from rich.console import Console

from ..backends.measure import interleaved, medians
from ..backends.onnxruntime import Session
from ..capture import quiet
from ..compiler import compile, export_onnx
from ..models import accuracy, load_trained
from ..passes.report_text import print_report
from .bench.models import load

SECONDS = 4.0


def main() -> None:
    """Run both parts."""
    console = Console()
    torch.set_grad_enabled(False)
    with tempfile.TemporaryDirectory() as folder:
        compile_transformer(console)
        optimize_file(console, Path(folder))


def compile_transformer(console: Console) -> None:
    """ViT-S/16 from transformers: one call, then latency beside the plain export."""
    console.rule("1. passel.compile(ViT-S/16 from transformers, random weights)")
    model, inputs = load("vit_s16")
    with console.status("exporting the plain model for comparison"):
        plain = Session(plain_export(model, inputs))
    with console.status("passel.compile"):
        compiled = compile(model, inputs)
    print_report(compiled.report, console)
    calls = {
        "ONNX Runtime, plain export": lambda: plain.run_tensors(inputs),
        "passel": lambda: compiled(*inputs),
    }
    with console.status("measuring, interleaved"):
        print_latency(console, medians(interleaved(calls, seconds=SECONDS)))


def optimize_file(console: Console, folder: Path) -> None:
    """A trained ViT with Unified Norm, as an ONNX file: no norm is left, same answers."""
    console.rule("2. an ONNX file: ViT with Unified Norm, trained on scikit-learn's digits")
    model = load_trained("unified")
    image = torch.zeros(1, 1, 8, 8)
    before, after = folder / "digits.onnx", folder / "digits.passel.onnx"
    ir.save(plain_export(model, (image,)), before)
    with console.status("passel.export_onnx"):
        report = export_onnx(before, None, after)
    print_report(report, console)
    sessions = {str(path.name): Session(path) for path in (before, after)}
    for name, session in sessions.items():
        score = accuracy(partial(predict, session), batch=1)
        console.print(f"{name}: accuracy on 360 held-out images {score:.4f}")
    calls = {name: partial(session.run_tensors, [image]) for name, session in sessions.items()}
    print_latency(console, medians(interleaved(calls, seconds=1.0)))


def predict(session: Session, images: torch.Tensor) -> torch.Tensor:
    """Class scores [N, 10] of a session."""
    return session.run_tensors([images])[0]


def plain_export(model: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> ir.Model:
    """What torch.onnx.export gives with its default settings."""
    with quiet():
        exported = torch.onnx.export(model, inputs, dynamo=True, verbose=False)
    assert exported is not None
    return exported.model


def print_latency(console: Console, found: dict[str, float]) -> None:
    """One line a side; the first is the baseline."""
    baseline = next(iter(found.values()))
    for name, milliseconds in found.items():
        console.print(f"  {name:28s} {milliseconds:8.3f} ms   {baseline / milliseconds:.3f}×")
    console.print()


if __name__ == "__main__":
    main()
