"""The choice between lowerings: all compute the same, the wrong and the slow are not taken."""

import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
from torch import nn

import passel
from passel.backends import select as module
from passel.backends.choices import SessionChoice
from passel.backends.kept_forms import KeptForm
from passel.backends.onnxruntime import Session
from passel.backends.select import FORM, Selection, build, operators, select, weight_bytes
from passel.backends.target import Target
from passel.capture import export_program, to_onnx
from passel.errors import InvalidModel, UnsupportedModel
from passel.graph import onnx as onnx_view
from passel.models import (
    DIGITS,
    GPT,
    GPT_TINY,
    ConvNet,
    ConvNetConfig,
    ViT,
    convnet_inputs,
    gpt_inputs,
    randomize,
    vit_inputs,
)
from passel.passes.driver import run_passes
from passel.passes.registry import DEFAULT
from passel.passes.report import OutputError
from passel.verify import compare

VIT = replace(DIGITS, depth=2, dim=16, heads=2)
MODELS = {
    "vit": (lambda: ViT(VIT), vit_inputs(VIT, batch=2)),
    "gpt": (lambda: GPT(replace(GPT_TINY, fused_qkv=False)), gpt_inputs(GPT_TINY, batch=2)),
    "convnet": (lambda: ConvNet(ConvNetConfig()), convnet_inputs(ConvNetConfig(), batch=2)),
}
ONE = SessionChoice(threads=1)


def lowered(name: str) -> tuple[ir.Model, Any, Any]:
    """The model after the default passes, its inputs, and what torch makes of them."""
    make, inputs = MODELS[name]
    model: nn.Module = randomize(make()).eval()
    program = export_program(model, (inputs, {}), None, name)
    graph = onnx_view.lift(to_onnx(program))
    run_passes(graph, DEFAULT)
    with torch.no_grad():
        return graph.binding.lower(graph), inputs, model(*inputs)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder for each test: what was measured before is not measured again."""
    monkeypatch.setenv("PASSEL_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def gpt() -> Any:
    return lowered("gpt")


def checked(expected: torch.Tensor, inputs: Any) -> Any:
    arrays = [tensor.numpy() for tensor in inputs]
    return lambda run: compare(["y"], [expected.numpy()], run(arrays))


@pytest.mark.parametrize("name", MODELS)
def test_every_form_computes_the_same(name):
    model, inputs, expected = lowered(name)
    before = operators(model)
    for form in FORM.options:
        (found,) = Session(build(form, model), choice=ONE).run_tensors(inputs)
        assert torch.allclose(found, expected, rtol=0, atol=1e-4 * expected.abs().max()), form
    assert operators(model) == before


def test_the_forms_are_different_graphs(gpt):
    found = {form: operators(build(form, gpt[0])) for form in FORM.options}
    skip = ("com.microsoft", "SkipSimplifiedLayerNormalization")
    assert skip in found["matrices, skip norms"]
    assert skip not in found["matrices"]
    assert len(found["matrices, merged linears"]) < len(found["matrices"])


def run(gpt: Any, *, measure: bool = True, check: Any = None, kept: Any = None) -> Selection:
    return select(gpt[0], gpt[1], "cpu", ONE, measure=measure, check=check, kept=kept)


def kept_form(gpt: Any, threads: int = 1) -> KeptForm:
    return KeptForm(onnx_view.lift(gpt[0]), gpt[1], Target("cpu"), threads)


def test_without_measuring_it_is_the_favourite(gpt):
    selection = run(gpt, measure=False)
    assert selection.winner is not None
    assert selection.winner.name == FORM.options[0]
    assert selection.outcomes == {FORM.options[0]: "not measured"}


def test_measured_medians_decide(gpt, monkeypatch):
    seconds = {"matrices": 3.0, "matrices, merged linears": 2.0, "matrices, skip norms": 2.5}

    def pretend(calls: Any, **_: Any) -> Any:
        for call in calls.values():
            call()
        return {name: [seconds.get(name, 9.0)] for name in calls}

    monkeypatch.setattr(module, "interleaved", pretend)
    selection = run(gpt, check=checked(gpt[2], gpt[1]))
    assert selection.winner is not None
    assert selection.winner.name == "matrices, merged linears"
    assert selection.outcomes["matrices"] == 3000.0
    assert selection.errors == selection.winner.errors


def test_what_was_fastest_before_is_not_measured_again(gpt, monkeypatch):
    first = run(gpt, kept=kept_form(gpt))
    assert first.winner is not None
    assert kept_form(gpt).name == first.winner.name
    assert kept_form(gpt, threads=2).name is None
    other = "matrices, skip norms"
    kept_form(gpt).keep(other)
    monkeypatch.setattr(module, "interleaved", None)
    again = run(gpt, check=checked(gpt[2], gpt[1]), kept=kept_form(gpt))
    assert again.winner is not None
    assert again.winner.name == other
    assert again.outcomes == {other: "the fastest when they were measured before"}
    assert again.errors == again.winner.errors != []


def test_what_was_fastest_before_and_is_wrong_now(gpt):
    kept_form(gpt).keep("matrices, skip norms")
    wrong = OutputError("y", 1.0, 1.0, 0.0, 0.0)
    verdicts = iter([[wrong], *([[]] * 9)])
    selection = run(gpt, check=lambda _: next(verdicts), kept=kept_form(gpt))
    assert selection.winner is not None
    assert selection.winner.name != "matrices, skip norms"
    assert selection.outcomes["matrices, skip norms"] == "disagrees with the original"
    assert kept_form(gpt).name == selection.winner.name


def test_a_cache_that_cannot_be_used_only_costs_time(gpt, cache):
    (cache / "forms.jsonl").mkdir()
    kept = kept_form(gpt)
    kept.keep("matrices")
    assert run(gpt, measure=False, kept=kept).winner is not None


def test_a_candidate_that_disagrees_is_reported_and_not_taken(gpt):
    wrong = OutputError("y", 1.0, 1.0, 0.0, 0.0)
    verdicts = iter([[wrong], [], [wrong], []])
    selection = run(gpt, check=lambda _: next(verdicts))
    assert selection.winner is not None
    assert selection.winner.name == "matrices, merged linears"
    assert selection.outcomes["matrices"] == "disagrees with the original"


def test_none_is_taken_if_all_disagree(gpt):
    wrong = OutputError("y", 1.0, 1.0, 0.0, 0.0)
    selection = run(gpt, check=lambda _: [wrong])
    assert selection.winner is None
    assert selection.errors == [wrong]


def test_candidates_that_cannot_be_loaded(gpt, monkeypatch):
    def loads(broken: set[str]) -> Any:
        def make(model: ir.Model, *rest: Any) -> Session:
            if model in kept and names[kept.index(model)] in broken:
                raise InvalidModel("no kernel for it")
            return Session(model, *rest)

        return make

    names = list(FORM.options)
    kept = [build(name, gpt[0]) for name in names]
    monkeypatch.setattr(module, "build", lambda name, _: kept[names.index(name)])
    monkeypatch.setattr(module, "Session", loads({"matrices"}))
    selection = run(gpt, measure=False)
    assert selection.winner is not None
    assert selection.winner.name == "as lowered"
    assert selection.outcomes == {"matrices": "no kernel for it", "as lowered": "not measured"}
    monkeypatch.setattr(module, "Session", loads(set(names)))
    with pytest.raises(UnsupportedModel, match="no kernel for it"):
        run(gpt)


def test_two_sessions_at_most_are_alive(gpt, monkeypatch):
    alive: list[weakref.ref[Session]] = []
    most = 0

    def make(*args: Any) -> Session:
        nonlocal most
        session = Session(*args)
        alive.append(weakref.ref(session))
        gc.collect()
        most = max(most, sum(ref() is not None for ref in alive))
        return session

    wrong = OutputError("y", 1.0, 1.0, 0.0, 0.0)
    verdicts = iter([[wrong], [], [], []])
    monkeypatch.setattr(module, "Session", make)
    monkeypatch.setattr(module, "MEASURE_SECONDS", 0.01)
    run(gpt, check=lambda _: next(verdicts))
    assert len(alive) >= 3
    assert most <= 2


def test_heavy_models_are_not_measured(gpt, monkeypatch):
    assert weight_bytes(gpt[0]) > 10_000
    monkeypatch.setattr(module, "MEASURE_BYTES", 10_000)
    assert run(gpt).outcomes == {FORM.options[0]: "not measured"}


def test_ctrl_c_while_measuring_goes_through(monkeypatch):
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    make, inputs = MODELS["gpt"]
    monkeypatch.setattr(module, "interleaved", interrupted)
    with pytest.raises(KeyboardInterrupt):
        passel.compile(make().eval(), inputs, threads=1)


def test_the_report_says_what_was_measured():
    make, inputs = MODELS["vit"]
    report = passel.compile(make().eval(), inputs, threads=1).report
    outcomes = report.chosen["candidates (median ms)"]
    assert isinstance(outcomes, dict)
    assert isinstance(outcomes[report.chosen["form"]], float)
