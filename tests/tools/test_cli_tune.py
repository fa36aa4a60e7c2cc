"""`passel tune`: what it prints, saves and refuses. One real search; the rest is fast."""

import json
from pathlib import Path

import numpy as np
import pytest

import passel
from passel.backends.tuning.plan import Plan
from passel.backends.tuning.standing import Limits, Standing
from passel.tools import cli
from passel.tools.cli_tune_run import Lines


@pytest.fixture(autouse=True)
def cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSEL_CACHE", str(folder / "cache"))


def test_tune_saves_reports_and_draws(folder, capsys):
    words = "tune in.onnx -o tuned --trials 2 --threads 1 --input-shape x:2,3,4 --report r.json"
    assert cli.main([*words.split(), "--plot", "p.svg"]) == 0
    out, err = capsys.readouterr()
    assert "plan" in out
    assert "wrote tuned" in out
    assert "the baseline" in err  # no terminal: a line for each new best
    chosen = json.loads((folder / "r.json").read_text())["chosen"]
    assert chosen["ratio"] <= 1
    assert (folder / "p.svg").read_text().startswith("<?xml")
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    expected = passel.compile("in.onnx", measure=False)(x)
    assert np.allclose(passel.load("tuned")(x), expected, atol=1e-5)

    words = "tune in.onnx --trials 2 --threads 1 --input-shape x:2,3,4 --json --storage"
    assert cli.main([*words.split(), str(folder / "cache" / "tuned.db")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["plan"] == chosen["plan"]
    assert found["notes"][0].startswith("taken from the database")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--rpc 127.0.0.1:1", "--rpc: expected --output"),
        ("--rpc 127.0.0.1:1 --trials 3", "leave out --trials"),
        ("--rpc 127.0.0.1:1 -o there", "expected the devices' CPU and threads"),
        ("--budget 0", "budget: expected a time like '30s', '5min' or '1h'"),
        ("--trials 0", "trials: expected at least 1"),
        ("--objective speed", "objective: expected one of latency, throughput, memory"),
        ("--max-error -1", "max_error: expected a positive number"),
        ("-o in.onnx", "--output: expected a folder"),
        ("--plot p.gif", "plot: expected a path that ends in .png or .svg"),
        ("--storage nosuch://host/db", "database"),
    ],
)
def test_bad_input(folder, capsys, words, message):
    assert cli.main(["tune", "in.onnx", *words.split()]) == cli.BAD_INPUT
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir() if path.name != "cache") == ["in.onnx"]


def test_ctrl_c_writes_what_was_found_and_says_how_to_go_on(folder, capsys, monkeypatch):
    from passel.tools import cli_tune_run

    tuned = passel.compile("in.onnx", measure=False)
    tuned.report.chosen = {
        "in words": "matrices", "baseline ms": 2.0, "best ms": 1.0, "ratio": 0.5, "error": 0.0,
        "trials": {"tried": 3}, "seconds": 4.0,
    }  # fmt: skip
    tuned.report.notes = ["interrupted after 3 trials; the same call again goes on from there"]
    monkeypatch.setattr(cli_tune_run, "autotune", lambda *_, **__: tuned)
    assert cli.main(["tune", "in.onnx", "-o", "tuned"]) == cli.INTERRUPTED
    out, err = capsys.readouterr()
    assert "goes on from there" in " ".join(out.split())
    assert "passel: interrupted" in err
    assert (folder / "tuned").is_dir()


def test_one_line_for_each_new_best(capsys):
    standing, say = Standing("latency", Limits(None, 4)), Lines()
    say(standing)
    standing.baseline = 2.0
    say(standing)
    say(standing)
    standing.best, standing.ratio = Plan(threads=1), 0.5
    say(standing)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "1 ms (2.00 times better)" in lines[1]
    assert lines[1].endswith("as exported, 1 threads")
