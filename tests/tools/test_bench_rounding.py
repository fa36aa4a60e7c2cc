"""The statistics that rounding is given are those of the models, and its table tells all."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from passel.passes.quantization.grid import Grid
from passel.passes.quantization.layer import LayerData
from passel.passes.quantization.rounded import Format, Rounded
from passel.passes.quantization.rounding import registry
from passel.passes.quantization.rounding.rtn import rtn
from passel.tools.bench import rounding
from passel.tools.bench.rounding_layers import Samples, round_model
from passel.tools.bench.rounding_subjects import Subject, snr_db
from passel.tools.bench.rounding_table import cells

W3 = Format(Grid("int3"), 4)


class Net(nn.Module):
    """Two layers share x; one reads their sum; the head is tied to a table, and reads 2-D."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twin = nn.Linear(6, 8), nn.Linear(6, 8, bias=False)
        self.second, self.head = nn.Linear(8, 6), nn.Linear(6, 5, bias=False)
        self.table, self.unused = nn.Embedding(5, 6), nn.Linear(3, 3)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        """Map (batch, tokens, 6) and ids (batch, tokens) to (batch, 5)."""
        x = x + self.table(ids)
        y = torch.tanh(self.first(x)) + self.twin(x)
        return self.head(self.second(y).mean(dim=1))


@pytest.fixture
def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Net().eval()


@pytest.fixture
def samples() -> Samples:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(7, 3, 6, generator=generator)
    kept = torch.ones(7, 3, dtype=torch.bool)
    kept[2, 1:] = False
    return Samples((x, torch.randint(5, (7, 3), generator=generator)), kept)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, LayerData]:
    """What the method "spy" was given, by layer; it rounds to nearest."""
    seen: dict[str, LayerData] = {}

    def spy(layer: LayerData, wanted: Format, start: Rounded | None = None) -> Rounded:
        assert torch.is_grad_enabled()
        seen[layer.name] = layer
        return rtn(layer, wanted, start)

    monkeypatch.setitem(registry.STAGES, "spy", spy)
    return seen


def inputs_of(model: nn.Module, samples: Samples, name: str) -> np.ndarray:
    """The inputs [count, I] of a layer, without padding, in float64."""
    found: list[Tensor] = []
    layer = model.get_submodule(name)
    handle = layer.register_forward_pre_hook(lambda _, arguments: found.append(arguments[0]))
    with torch.no_grad():
        model(*samples.arguments)
    handle.remove()
    (x,) = found
    return (x[samples.kept] if x.dim() == 3 else x).double().numpy()


@pytest.mark.parametrize("sequential", [True, False])
def test_statistics_are_those_of_the_rounded_and_the_float_model(
    net: Net, samples: Samples, given: dict[str, LayerData], sequential: bool
) -> None:
    found = round_model(net, samples, W3, ["spy"], sequential=sequential)
    assert list(given) == ["first", "twin", "second", "head"]
    for name, layer in given.items():
        original = inputs_of(net, samples, name)
        x = inputs_of(found.model, samples, name) if sequential else original
        np.testing.assert_allclose(layer.second, x.T @ x / len(x), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(layer.mean_abs, np.abs(x).mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(layer.peak, np.abs(x).max(axis=0), rtol=1e-5)
        if sequential:
            cross = original.T @ x / len(x)
            np.testing.assert_allclose(layer.cross, cross, rtol=1e-5, atol=1e-6)
        else:
            assert layer.cross is None
    drift = np.abs(inputs_of(net, samples, "head") - inputs_of(found.model, samples, "head"))
    assert drift.max() > 1e-2


def test_weights_are_what_the_codes_stand_for(net: Net, samples: Samples) -> None:
    before = copy.deepcopy(net.state_dict())
    found = round_model(net, samples, W3, ["rtn"])
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in before.items())
    for name, rounded in found.layers.items():
        expected = rtn(LayerData(net.get_submodule(name).weight.detach().numpy()), W3).dense()
        np.testing.assert_array_equal(rounded.dense(), expected)
        weight = found.model.get_submodule(name).weight.detach().numpy()
        np.testing.assert_array_equal(weight, expected.astype(np.float32))
    assert torch.equal(found.model.table.weight, net.table.weight)
    assert torch.equal(found.model.unused.weight, net.unused.weight)
    # 3 bits a code; int3 scales of 4 columns: two blocks in each row, of 6 as of 8 columns.
    weights, rows = 2 * 48 + 48 + 30, 8 + 8 + 6 + 5
    assert found.bits == pytest.approx(3 + 32 * 2 * rows / weights)


def subject(net: Net, samples: Samples) -> Subject:
    """The net, measured by the mean of its outputs."""

    def outputs(model: nn.Module) -> Tensor:
        return model(*samples.arguments)

    return Subject(net, samples, "mean", ".3f", outputs, lambda y: (float(y.mean()), {}))


def test_rows_of_all_methods_and_widths(
    net: Net, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(layer: LayerData, wanted: Format, start: Rounded | None = None) -> Rounded:
        raise ZeroDivisionError(f"[{layer.name}]")

    monkeypatch.setitem(registry.STAGES, "broken", broken)
    monkeypatch.setitem(registry.STAGES, "binary", rtn)
    setting = rounding.Setting(block=4, symmetric=True, sequential=True)
    said: list[str] = []
    methods = ["rtn", "broken", "binary"]
    whole = subject(net, samples)
    rows = list(rounding.measured("net", whole, methods, [8, 2], setting, said.append))
    wanted = [("float", None), ("rtn", 8), ("rtn", 2), ("broken", 8), ("broken", 2)]
    assert [(row.method, row.bits) for row in rows] == [*wanted, ("binary", None)]
    assert said[:2] == ["net: rtn at 8 bits, first", "net: rtn at 8 bits, twin"]
    assert rows[1].snr_db is not None
    assert rows[2].snr_db is not None
    assert rows[1].snr_db > rows[2].snr_db + 20
    assert rows[3].error == "ZeroDivisionError: [first]"
    assert rows[3].quality is None
    assert cells(rows[3], ".2f")[-1] == r"[red]ZeroDivisionError: \[first][/]"
    assert cells(rows[1], ".2f")[:2] == ("rtn", "8")
    assert cells(rows[5], ".2f")[1] == "own"


def test_snr_is_ten_decibel_a_decade() -> None:
    y = torch.tensor([3.0, 4.0])
    assert snr_db(y, y + torch.tensor([0.0, 0.5])) == pytest.approx(20)
    assert snr_db(y, y) == float("inf")


def test_combinations_need_all_their_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "STAGES", {"rtn": rtn, "mse": rtn, "lorc": rtn})
    assert rounding.default_methods(large=False) == ["rtn", "mse", "lorc", "rtn+lorc", "mse+lorc"]


def test_costly_methods_are_left_out_on_large_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "STAGES", {"mse": rtn, "adaround": rtn, "codebook": rtn})
    assert rounding.default_methods(large=True) == ["mse"]
    small = rounding.default_methods(large=False)
    assert small == ["mse", "adaround", "codebook", "mse+adaround"]


def test_command_writes_tables_and_json(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    path, threads = tmp_path / "rows.json", torch.get_num_threads()
    arguments = ["--models", "digits", "--methods", "rtn", "--bits", "8,2", "--threads", "1"]
    result = CliRunner().invoke(rounding.app, [*arguments, "--json", str(path)])
    torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output
    assert "97.22%" in result.output
    content = json.loads(path.read_text())
    assert content["setting"] == {"block": 32, "symmetric": True, "sequential": True}
    assert [row["bits"] for row in content["rows"]] == [None, 8, 2]
    assert content["rows"][1]["quality"] > content["rows"][2]["quality"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "vit"], "unknown model 'vit'"),
        (["--methods", "rtn+best"], "unknown method 'best'"),
        (["--bits", "1"], "expected bits from 2 to 8, got '1'"),
    ],
)
def test_unknown_names_are_refused(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(rounding.app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert message in result.output
