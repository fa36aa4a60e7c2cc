"""Code in the cache folder: found for equal modules, for no others, and never if it is damaged."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from passel.backends.explain import InputSpec
from passel.backends.tvm import kept_code
from passel.backends.tvm.aligned import keep_aligned
from passel.backends.tvm.code import Code
from passel.backends.tvm.kept_code import checked_code
from passel.backends.tvm.model import TvmModel
from passel.backends.tvm.pipeline import fused
from passel.backends.tvm.session import TvmSession
from passel.backends.tvm.tuned import Tuned, Winner, by_rules, kernel_key
from tests.backends.tvm.programs import module

SPEC = InputSpec("x", "float32", (8, 48))
X = np.random.default_rng(0).standard_normal((8, 48), np.float32)


def weights(seed: int, columns: int = 64) -> list[np.ndarray]:
    """A matrix of random numbers."""
    return [np.random.default_rng(seed).standard_normal((48, columns), np.float32)]


def product(columns: int = 64) -> Any:
    """A Relax module with one matrix product."""
    from tvm import relax

    return module([SPEC], weights(0, columns), lambda b, x, w: [relax.op.matmul(x, w)])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PASSEL_CACHE", str(tmp_path))
    return tmp_path / "built"


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each time that something was compiled."""
    found: list[str] = []
    build = kept_code.build

    def counted(*arguments: Any, **named: Any) -> Any:
        found.append("build")
        return build(*arguments, **named)

    monkeypatch.setattr(kept_code, "build", counted)
    return found


def computes(code: Code, machine: Any) -> None:
    """The code multiplies by whatever weight it is given."""
    for seed in (1, 2):
        held = weights(seed)
        keep_aligned(held)
        found = TvmSession(TvmModel(code, held, machine, (SPEC,), 1)).run_arrays([X])[0]
        assert np.allclose(found, X @ held[0], rtol=1e-4, atol=1e-4)


def test_what_was_compiled_is_loaded(machine, folder, builds):
    first = checked_code(product(), machine, None)
    again = checked_code(product(), machine, None)
    assert builds == ["build"]
    assert (again.rules, again.serial, again.notes) == (first.rules, first.serial, first.notes)
    assert again.files == first.files
    computes(again, machine)


def test_without_a_c_compiler(machine, folder, builds, monkeypatch):
    monkeypatch.setattr("tvm.support.cc.get_cc", lambda: None)
    checked_code(product(), machine, None)
    again = checked_code(product(), machine, None)
    assert builds == ["build"]
    assert again.files is not None
    assert set(again.files) == {".ll", ".vm"}
    computes(again, machine)


def test_another_module_machine_or_compiler(machine, folder, builds, monkeypatch):
    from dataclasses import replace

    checked_code(product(), machine, None)
    checked_code(product(columns=65), machine, None)
    checked_code(product(), replace(machine, threads=1), None)
    monkeypatch.setattr(kept_code, "_sources", lambda: "others")
    checked_code(product(), machine, None)
    assert len(builds) == 4


def test_schedules_that_were_found_later(machine, folder, builds):
    """New winners of the module's own kernels make code stale; those of other kernels do not."""
    kernel = fused(product(), machine.target())["matmul"]
    (name, options), *_ = by_rules(kernel, machine, {})[1].items()
    checked_code(product(), machine, None)
    others = Tuned({"0": Winner(1.0, 2.0, {name: options[0]})})
    assert checked_code(product(), machine, others).rules == {"matmul": "matmul"}
    assert len(builds) == 1
    tuned = Tuned({**others.winners, kernel_key(kernel): Winner(1.0, 2.0, {name: options[-1]})})
    for _ in range(2):
        assert checked_code(product(), machine, tuned).rules == {"matmul": "measured"}
    assert len(builds) == 2


@pytest.mark.parametrize("name", ["code.so", "code.json"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"[1]"])
def test_damaged_files_are_replaced(machine, folder, builds, name, content):
    checked_code(product(), machine, None)
    (file,) = folder.glob(f"*/{name}")
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    computes(checked_code(product(), machine, None), machine)
    assert len(builds) == 2
    computes(checked_code(product(), machine, None), machine)
    assert len(builds) == 2


def test_a_folder_that_cannot_be_written(machine, folder, builds):
    folder.parent.joinpath("built").write_text("in the way")
    computes(checked_code(product(), machine, None), machine)
    assert len(builds) == 1
