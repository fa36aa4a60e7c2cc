"""Whole models after the default passes, in both views, through Relax against their evaluators."""

import pytest
import torch

from passel import models
from passel.execution import lift
from passel.passes.registry import DEFAULT
from tests.architectures import ARCHITECTURES
from tests.backends.tvm.emission import VIEWS, arrays_of, assert_same, built, graph_of

QUICK = {"llama", "mod-vit"}
BOUND = 3e-6


def marked(name):
    return name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", [marked(name) for name in ARCHITECTURES])
def test_architectures(machine, name, view):
    torch.manual_seed(0)
    model, inputs = ARCHITECTURES[name].build()
    check(machine, model, inputs, view)


def check(machine, model, inputs, view):
    graph = graph_of(model, inputs, view, passes=DEFAULT)
    arrays = arrays_of(*inputs)
    assert_same(graph.run(arrays), built(graph, machine)(arrays), BOUND)


SIZES = {"image_size": 16, "patch_size": 8, "dim": 24, "depth": 2, "heads": 2, "classes": 7}


def mod_vit():
    config = models.ViTConfig(**SIZES)
    model = models.MoDViT(config, models.Routing(ratio=0.5, every=1))
    return models.randomize(model), models.vit_inputs(config, batch=2)


def unified_vit():
    config = models.ViTConfig(**SIZES, norm="unified")
    return models.randomize(models.ViT(config)), models.vit_inputs(config, batch=2)


def conv_net():
    config = models.ConvNetConfig()
    return models.randomize(models.ConvNet(config)), models.convnet_inputs(config, batch=2)


def pmod():
    return models.randomize(models.PMoD(models.PMOD_TINY)), models.pmod_inputs(models.PMOD_TINY)


MODELS = {"mod-vit": mod_vit, "unified-vit": unified_vit, "conv-net": conv_net, "pmod": pmod}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", [marked(name) for name in MODELS])
def test_models(machine, name, view):
    model, inputs = MODELS[name]()
    check(machine, model.eval(), inputs, view)


@pytest.mark.parametrize("view", VIEWS)
def test_a_routed_model_that_was_written_out_and_read_again(machine, view):
    """Rows by index are then ScatterND and GatherND in ONNX, scatter and index in ATen."""
    model, inputs = mod_vit()
    first = graph_of(model.eval(), inputs, view, passes=DEFAULT)
    graph = lift(first.binding.lower(first))
    arrays = arrays_of(*inputs)
    assert_same(graph.run(arrays), built(graph, machine)(arrays), BOUND)
