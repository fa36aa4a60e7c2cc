"""Sensitivity by trial edits, and a budget met by choosing forms, both views."""

import functools
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import nn

from passel.backends.saved_report import _layer
from passel.errors import InvalidInput
from passel.graph import ops as o
from passel.graph.text import to_text
from passel.models import digits
from passel.passes.driver import run_pass, run_passes
from passel.passes.quantization.calibration.data import Samples
from passel.passes.quantization.candidates import matrix_of
from passel.passes.quantization.greedy import choose
from passel.passes.quantization.grid import Grid
from passel.passes.quantization.layer import LayerData
from passel.passes.quantization.place import EMBEDDING, Form
from passel.passes.quantization.plan import Plan
from passel.passes.quantization.rounded import Format
from passel.passes.quantization.rounding import round_weight
from passel.passes.quantization.schemes import U8
from passel.passes.quantization.sensitivity import Sensitivity, held, measure, trial
from passel.passes.quantization.sites import Product
from passel.passes.quantize import Quantize
from passel.passes.registry import resolve
from tests.conftest import View
from tests.residual import fingerprint

OPSET = {"opset": 25}
WEIGHT = Format(Grid("int8"))
FORMS = {
    "static": Form(WEIGHT, U8),
    "dynamic": Form(WEIGHT, U8, dynamic=True),
    "weight": Form(Format(Grid("uint4", symmetric=False), 8)),
    "low rank": Form(WEIGHT),
}
SENT_BACK = "the budget sends it back to float"


class Net(nn.Module):
    """An MLP on a residual stream; the head reads through a reshape that leads back over it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.up, self.down = nn.Linear(16, 16), nn.Linear(16, 64), nn.Linear(64, 16)
        self.head = nn.Linear(32, 6)

    def forward(self, x):
        x = self.enter(x)
        x = x + self.down(nn.functional.gelu(self.up(x)))
        return self.head(x.reshape(-1, 32)), x.sum(-1)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(50, 16), nn.Linear(16, 6)

    def forward(self, ids):
        return self.head(self.table(ids))


def data(count=4, shape=(6, 2, 16), seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(shape, generator=generator).numpy(),) for _ in range(count)]


@functools.cache
def exported(name, kind):
    """A program of one view; lifting leaves it as it is."""
    module, example = MODULES[kind]()
    return View(name).export(module, [example], **OPSET)


MODULES = {
    "net": lambda: (Net(), torch.from_numpy(data()[0][0])),
    "digits": lambda: (digits.load_trained("layer"), torch.zeros(8, 1, 8, 8)),
}


def ready(view, module=None, example=None, kind="net"):
    if module is None:
        graph, _ = view.open(exported(view.name, kind), [])
    else:
        example = torch.from_numpy(data()[0][0]) if example is None else example
        graph, _ = view.lift(module, [example], **OPSET)
    run_passes(graph, resolve("default"))
    return graph


def product(op, form, stages=("mse",)):
    rounded = round_weight(LayerData(matrix_of(op), name=op.name), form.weight, stages)
    return Product(op, form, rounded, -3.0, 3.0)


def outputs(graph, samples):
    """Per output all samples' numbers in a row, float64."""
    runs = [graph.run(list(sample)) for sample in samples]
    return [
        np.concatenate([run[i].ravel() for run in runs]).astype(float) for i in range(len(runs[0]))
    ]


def worst(expected, found):
    return max(((y - z) ** 2).sum() / (y**2).sum() for y, z in zip(expected, found, strict=True))


def state(graph):
    sources = [(op, op.source, op.order) for op in graph.ops]
    return to_text(graph, names=True), fingerprint(graph), sources


@pytest.mark.parametrize("name", FORMS)
def test_a_trial_leaves_the_graph_as_it_was(view, name):
    graph = ready(view)
    before, expected = state(graph), outputs(graph, data(1))
    for op in list(graph.walk(o.Linear)):
        stages = ("rtn", "lorc:2") if name == "low rank" else ("rtn",)
        with trial(graph, product(op, FORMS[name], stages)):
            assert to_text(graph) != before[0]
            assert worst(expected, outputs(graph, data(1))) > 0
        assert state(graph) == before
        np.testing.assert_array_equal(outputs(graph, data(1))[0], expected[0])


def test_a_trial_of_a_table_or_one_that_fails_is_undone_too(view):
    graph = ready(view, Tokens(), torch.arange(12).reshape(3, 4))
    before = state(graph)
    (gather,) = graph.walk(o.Gather)
    (linear,) = graph.walk(o.Linear)
    with trial(graph, product(gather, Form(EMBEDDING))):
        assert gather.erased
    assert not gather.erased
    with pytest.raises(KeyError), trial(graph, product(gather, Form(EMBEDDING))):
        raise KeyError
    with trial(graph, product(gather, Form(EMBEDDING)), product(linear, FORMS["dynamic"])):
        assert "DynamicQuantize" in to_text(graph)
    assert state(graph) == before


def test_noise_is_that_of_a_model_with_only_this_op_quantized(view):
    """Beside models that were really quantized at one op each, and run from end to end."""
    graph, samples = ready(view), data()
    ops = list(graph.walk(o.Linear))
    trials = {op: [product(op, FORMS[f]) for f in ("static", "dynamic", "weight")] for op in ops}
    found = measure(graph, trials, Samples.of(samples, graph.inputs))
    assert list(found) == ops
    expected = outputs(graph, samples)
    for index, op in enumerate(ops):
        for noise, one in zip(found[op], trials[op], strict=True):
            other = ready(view)
            target = list(other.walk(o.Linear))[index]
            product(target, one.form).apply(other)
            assert noise == pytest.approx(worst(expected, outputs(other, samples)), rel=1e-3)
    assert len({round(n, 12) for noises in found.values() for n in noises}) == 3 * len(ops)


def test_noise_where_a_quantize_goes_above_a_slice(view):
    """The head reads one token: the smallest cut is below the slice, which will move codes."""

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.enter, self.head = nn.Linear(16, 16), nn.Linear(16, 6)

        def forward(self, x):
            return self.head(torch.relu(self.enter(x))[:, :1])

    samples = data(shape=(6, 8, 16))
    graph, _ = view.lift(Pooled(), [torch.from_numpy(samples[0][0])], **OPSET)
    run_passes(graph, resolve(["canonicalize"]))
    enter, head = graph.walk(o.Linear)
    trials = {enter: [], head: [product(head, FORMS["static"])]}
    expected = outputs(graph, samples)
    with trial(graph, trials[head][0]):
        assert [op.output.dtype for op in graph.walk(o.Slice)] == [np.uint8]
        real = worst(expected, outputs(graph, samples))
    found = measure(graph, trials, Samples.of(samples, graph.inputs))
    assert found == {enter: [], head: [pytest.approx(real, rel=1e-3)]}


def test_only_the_first_samples_are_looked_at(fx_view):
    graph, samples = ready(fx_view), data(5)
    (op, *_) = graph.walk(o.Linear)
    one = {op: [product(op, FORMS["weight"])]}
    few = measure(graph, one, Samples.of(samples, graph.inputs), limit=2)
    assert few == measure(graph, one, Samples.of(samples[:2], graph.inputs))
    assert few != measure(graph, one, Samples.of(samples, graph.inputs))


def test_infinities_of_the_float_model_do_not_count(fx_view):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.only = nn.Linear(16, 16)

        def forward(self, x):
            return self.only(x).masked_fill(torch.eye(16, dtype=torch.bool), float("-inf"))

    samples = data(shape=(2, 16, 16))
    graph = ready(fx_view, Masked(), torch.from_numpy(samples[0][0]))
    (op,) = graph.walk(o.Linear)
    ((noise,),) = measure(
        graph, {op: [product(op, FORMS["dynamic"])]}, Samples.of(samples, graph.inputs)
    ).values()
    assert 1e-7 < noise < 1e-3


def test_a_model_without_float_outputs_is_an_error(fx_view):
    class Picks(Net):
        def forward(self, x):
            return super().forward(x)[0].argmax(-1)

    graph = ready(fx_view, Picks())
    with pytest.raises(InvalidInput, match=r"a float output to measure the error of, got .*int64"):
        Sensitivity(graph, Samples.of(data(), graph.inputs))


def test_sensitivity_is_reported_without_a_budget(view):
    graph, samples = ready(view), data()
    expected = outputs(graph, samples)
    one = Quantize("int8", calibration=samples, placement="all", sensitivity=True)
    plain = ready(view)
    report = run_pass(graph, one)
    run_pass(plain, Quantize("int8", calibration=samples, placement="all"))
    assert state(graph)[0] == state(plain)[0]  # measuring changed nothing, names included
    assert len(report.layers) == 4
    for layer in report.layers:
        other = ready(view)
        rest = tuple((op.name, "float") for op in other.walk(o.Linear) if op.name != layer.name)
        run_pass(
            other, Quantize("int8", calibration=samples, placement=(*rest, ("Linear", "static")))
        )
        snr = -10 * np.log10(worst(expected, outputs(other, samples)))
        assert layer.alone_snr_db == pytest.approx(snr, abs=0.01)
        saved = {**asdict(layer), "alone_snr_db": str(layer.alone_snr_db), "output_snr_db": "nan"}
        assert _layer(saved).alone_snr_db == layer.alone_snr_db


@pytest.mark.parametrize("asked", [{"budget": "snr>=30"}, {"sensitivity": True}])
def test_measuring_needs_data(fx_view, asked):
    one = Quantize("int8-dynamic", placement="all", **asked)
    assert one.needs_data
    with pytest.raises(InvalidInput, match=r"calibration: expected data, for (budget|sensitivity)"):
        run_pass(ready(fx_view), one)


# -- budgets ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images():
    split = digits.load_digits_split()
    return [(split.x_train[8 * i : 8 * i + 8].numpy(),) for i in range(2)]


def quantized(view, images, **asked):
    """(SNR and size by an own measure, report) of the trained digits ViT."""
    graph = ready(view, kind="digits")
    expected, before = outputs(graph, images), size_of(graph)
    report = run_pass(graph, Quantize(calibration=images, placement="all", **asked))
    noise = worst(expected, outputs(graph, images))
    snr = -10 * np.log10(noise) if noise else np.inf
    return snr, size_of(graph) / before, report


def size_of(graph):
    payloads = {v: v.constant for op in graph.ops for v in op.inputs if v is not None}
    return sum(one.nbytes for one in payloads.values() if one is not None)


def test_a_noise_budget_is_met_with_as_little_as_it_takes(either_view, images):
    seen = []
    for bound in (30, 46):
        snr, size, report = quantized(either_view, images, scheme="int8", budget=f"snr>={bound}")
        assert snr >= bound
        sent = [name for name, why in report.refused if why.reason == SENT_BACK]
        own = [one.name for one in report.layers if one.form == "uint8 static × int8 per channel"]
        assert len(sent) + len(report.layers) == 19
        seen.append((size, sent, own))
    sizes, sent, own = zip(*seen, strict=True)
    assert sent[0] == []
    assert len(own[0]) == 19  # 30 dB are there from the start
    assert 0 < len(own[1]) < 19
    assert sizes[0] < sizes[1] < 0.7


def test_what_is_sent_back_to_float_says_its_sensitivity(fx_view, images):
    _, _, report = quantized(fx_view, images, scheme="int8-dynamic", budget="error<=0.004")
    _, _, plain = quantized(fx_view, images, scheme="int8-dynamic", sensitivity=True)
    alone = {layer.name: layer.alone_snr_db for layer in plain.layers}
    sent = {name: why for name, why in report.refused if why.reason == SENT_BACK}
    assert sent
    for name, why in sent.items():
        assert why.node == name
        assert why.detail == f"{alone[name]:.1f} dB at the worst output with only this op quantized"


@pytest.mark.parametrize("share", [0.24, 0.17])
def test_a_size_budget_is_met_and_made_use_of(either_view, images, share):
    asked = {"scheme": "w4", "weights": "rtn"}
    snr, size, report = quantized(either_view, images, budget=f"size<={100 * share}%", **asked)
    assert 0.95 * share < size <= share
    bits = {layer.form.split()[0] for layer in report.layers}
    assert bits == ({"uint4", "int8"} if share == 0.24 else {"uint2", "uint4", "int8"})
    if share == 0.24:
        assert snr > quantized(either_view, images, **asked)[0] + 3


def test_two_bounds_hold_together(fx_view, images):
    asked = {"scheme": "w4", "weights": "rtn", "budget": "snr>=25,size<=20%"}
    snr, size, _ = quantized(fx_view, images, **asked)
    assert snr >= 25
    assert size <= 0.2


def test_a_budget_holds_after_rounding_by_data(fx_view, images):
    """GPTQ's codes are not those that products were tried with."""
    asked = {"scheme": "w4", "weights": "mse+gptq"}
    snr, _, report = quantized(fx_view, images, budget="snr>=32", **asked)
    assert snr >= 32
    assert all("gptq" in layer.method for layer in report.layers if "uint4" in layer.form)


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        ("size<=1%", "the smallest that can be reached is"),
        ("snr>=60,size<=14%", "an SNR of at least 60.00 dB .* in .* bytes is"),
    ],
)
def test_what_cannot_be_is_an_error(fx_view, images, budget, says):
    with pytest.raises(InvalidInput, match=says):
        quantized(fx_view, images, scheme="w4", weights="rtn", budget=budget)


class Twice(nn.Module):
    """Noise that does not add up: both products err by the same, so together by four times."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Linear(16, 64), nn.Linear(16, 64)
        self.two.load_state_dict(self.one.state_dict())

    def forward(self, x):
        y = self.two(x)
        return self.one(x) + torch.relu(y) - torch.relu(-y)


def test_the_whole_choice_is_measured_where_noise_does_not_add_up(fx_view):
    samples = data()
    graph = ready(fx_view, Twice())
    assert len(list(graph.walk(o.Linear))) == 2
    expected = outputs(graph, samples)
    ops = list(graph.walk(o.Linear))
    one = Form(Format(Grid("int8"), 0))
    tried = {op: [product(op, one, ("rtn",))] for op in ops}
    alone = [n for (n,) in measure(graph, tried, Samples.of(samples, graph.inputs)).values()]
    bound = 1.5 * sum(alone)  # more than the sum, less than what it comes to
    with trial(graph, *(tried[op][0] for op in ops)):
        assert worst(expected, outputs(graph, samples)) > bound
    asked = {"scheme": "w8", "block_size": 0, "placement": "all"}
    report = run_pass(graph, Quantize(calibration=samples, budget=f"error<={bound**0.5}", **asked))
    assert 0 < worst(expected, outputs(graph, samples)) <= bound
    assert [why.reason for _, why in report.refused] == [SENT_BACK]
    assert len(report.layers) == 1


def test_the_input_of_a_down_projection_comes_first(fx_view):
    """The plan marks FC2; of products that are as sensitive, it is the one that is upgraded."""
    graph = ready(fx_view)
    asked = Quantize("int8", calibration=data(), placement="all", budget="snr>=20")
    work = next_work(asked, graph)
    chosen = [(op, Form(WEIGHT, U8)) for op in graph.walk(o.Linear)]
    plan = Plan(work, chosen, work.ranges(chosen))
    marks = [ladder.first for ladder in plan.ladders.values()]
    assert marks == [False, False, True, False]
    kinds = [str(option.form) for option in plan.ladders[chosen[2][0]].options]
    assert kinds == [
        "uint8 static × int8 per channel",
        "uint8 dynamic × int8 per channel",
        "int8 by 32",
        "None",
    ]
    ladders = list(plan.ladders.values())
    least = [ladder.options[0] for ladder in ladders]
    assert choose(ladders, sum(one.noise for one in least), None) == least
    assert held(graph) == size_of(graph)


def next_work(asked, graph):
    from passel.passes.quantization.work import Work

    return Work(asked, graph)
