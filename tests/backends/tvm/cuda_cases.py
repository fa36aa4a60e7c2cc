"""Small models of every kind that a GPU has to run: tests compile them, and run them emulated.

Run as a program, this runs one model on the emulator and prints how far it is from torch:
`python -P cuda_cases.py <case> barriers|without <order>...`.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from passel import models
from passel.graph import Graph, fx
from passel.models.mod import MoDViT, Routing
from passel.models.transformer import MLP, Attention, Block
from passel.passes.driver import run_passes
from passel.passes.registry import resolve

Case = tuple[nn.Module, tuple[Tensor, ...], tuple[str, ...]]
"""A model, inputs, and passes to run before those that every model gets."""

FORM = ("canonicalize", "merge-linears", "flatten-tokens", "canonicalize", "eliminate-dead-code")
VIT = models.ViTConfig(image_size=16, patch_size=4, dim=48, depth=2, heads=2, classes=10)
GPT = models.GPTConfig(vocab=40, context=16, dim=32, depth=2, heads=2)
NORMS = ("fold-constants", "canonicalize", "recenter", "fold-constants", "canonicalize")
TOKENS = ("default",)


def block() -> Case:
    """One block, of a width and a number of tokens that no tile divides."""
    return Block(36, Attention(36, 2), MLP(36, 60)), (torch.randn(2, 13, 36),), ()


def vit() -> Case:
    return models.ViT(VIT), models.vit_inputs(VIT), ()


def rms_vit() -> Case:
    return models.ViT(VIT), models.vit_inputs(VIT), NORMS


def crms_vit() -> Case:
    return models.ViT(VIT), models.vit_inputs(VIT), (*NORMS, "compress(form='paper')")


def gpt() -> Case:
    return models.GPT(GPT), models.gpt_inputs(GPT, tokens=12), ("default",)


def mod_vit() -> Case:
    return MoDViT(VIT, Routing()), models.vit_inputs(VIT), TOKENS


CASES: dict[str, Callable[[], Case]] = {
    "block": block,
    "vit": vit,
    "rms-vit": rms_vit,
    "crms-vit": crms_vit,
    "gpt": gpt,
    "mod-vit": mod_vit,
}


def prepared(name: str) -> tuple[Graph, nn.Module, tuple[Tensor, ...]]:
    """The graph that TVM gets, the model with random weights, and its inputs."""
    torch.manual_seed(0)  # the constructors draw from torch's own generator
    module, inputs, passes = CASES[name]()
    module.eval()
    models.randomize(module, seed=1)
    graph = fx.lift(torch.export.export(module, inputs))
    run_passes(graph, resolve([*passes, *FORM]))
    return graph, module, inputs


def emulated(name: str, orders: Sequence[int], *, barriers: bool = True) -> dict[str, object]:
    """Largest error of a model on the emulator by order of threads, and the largest output."""
    from cuda_emulator import emulate, keep_scheduled, set_order

    from passel.backends.tvm.cuda import build_cuda

    graph, module, inputs = prepared(name)
    kept = keep_scheduled(pytest.MonkeyPatch())
    built = build_cuda(graph, "sm_90", check=False)
    if not barriers:
        built.source = built.source.replace("__syncthreads();", "")
    errors = []
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        want = module(*inputs)
        session = emulate(built, kept[0], Path(folder))
        for order in orders:
            set_order(order)
            (got,) = session.run_tensors(inputs)
            errors.append(float((got - want).abs().max()))
    return {"errors": errors, "scale": float(want.abs().max()), "kernels": len(built.model.rules)}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))  # for the emulator, which stands beside it
    case, barriers, *orders = sys.argv[1:]
    print(json.dumps(emulated(case, [int(o) for o in orders], barriers=barriers == "barriers")))
