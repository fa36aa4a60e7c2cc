"""Sessions: what goes in and out, who owns it, and what is said of a wrong input."""

import os
import subprocess
import sys
import threading

import ml_dtypes
import numpy as np
import pytest
import torch

from passel.backends.explain import InputSpec
from passel.backends.tvm.aligned import BOUNDARY, aligned_array, aligned_tensor, copy_of
from passel.backends.tvm.code import Code
from passel.backends.tvm.machine import machine_of
from passel.backends.tvm.session import TvmSession, use_threads
from passel.errors import BackendUnavailable, InvalidInput, InvalidModel
from tests.backends.tvm.programs import model

WEIGHT = np.arange(8, dtype=np.float32)
ROWS = InputSpec("rows", "float32", ("n", 8))
OTHER = InputSpec("other", "float32", ("n", 8))


@pytest.fixture(scope="module")
def session(machine) -> TvmSession:
    """The sum, the input as it is, reshaped, the weight as it is, and the sum again."""
    from tvm import relax

    def body(builder, rows, other, weight):
        total = builder.emit(relax.op.add(relax.op.multiply(rows, weight), other))
        return total, rows, relax.op.reshape(rows, (-1,)), weight, total

    return TvmSession(model(machine, [ROWS, OTHER], [WEIGHT], body))


def rows(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))


def off_boundary(tensor: torch.Tensor) -> torch.Tensor:
    """The same values, one element past a boundary."""
    return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)


def test_torch_in_torch_out(session):
    x, y = rows(5), rows(5, 1)
    total, same, flat, weight, again = session.run_tensors([x, y])
    assert session.inputs == ["rows", "other"]
    assert torch.allclose(total, x * torch.from_numpy(WEIGHT) + y, rtol=1e-6, atol=1e-6)
    assert torch.equal(same, x)
    assert torch.equal(flat, x.flatten())
    assert torch.equal(weight, torch.from_numpy(WEIGHT))
    assert torch.equal(again, total)


def test_numpy_in_numpy_out(session):
    x, y = rows(3).numpy(), rows(3, 1).numpy()
    results = session.run_arrays([x, y])
    assert all(isinstance(result, np.ndarray) for result in results)
    assert np.allclose(results[0], x * WEIGHT + y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_symbolic_extents_and_empty_batches(session, count):
    total = session.run_tensors([rows(count), rows(count, 1)])[0]
    assert total.shape == (count, 8)


def test_outputs_are_nobody_elses_memory(session):
    x, y = rows(4), rows(4, 1)
    first = session.run_tensors([x, y])
    kept = [result.clone() for result in first]
    addresses = {t.data_ptr() for t in (*first, x, y)}
    assert len(addresses) == len(first) + 2
    second = session.run_tensors([-x, y])
    assert not addresses & {t.data_ptr() for t in second}
    for result in second:
        result.zero_()
    assert all(map(torch.equal, first, kept))
    assert torch.equal(session.run_tensors([x, y])[3], torch.from_numpy(WEIGHT))
    x.zero_()
    assert all(map(torch.equal, first, kept))


@pytest.mark.parametrize(
    "change",
    [
        off_boundary,
        lambda x: x.t().contiguous().t(),
        lambda x: torch.stack([x, x], -1)[..., 0],
        lambda x: x.clone().requires_grad_(),
        lambda x: torch.view_as_complex(torch.stack([x, -x], -1)).conj().imag,
        lambda x: torch.from_numpy(np.ascontiguousarray(x.numpy()[::-1]))[:, :],
        lambda x: torch.nn.Parameter(x),
    ],
)
def test_inputs_of_any_layout(session, change):
    x, y = rows(6), rows(6, 1)
    given = change(x)
    expected = given.detach() * torch.from_numpy(WEIGHT) + y
    found = session.run_tensors([given, y])[0]
    assert not found.requires_grad
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_only_what_kernels_cannot_read_is_copied():
    x = rows(6)
    assert aligned_tensor(x).data_ptr() == x.data_ptr()
    assert aligned_tensor(off_boundary(x)).data_ptr() % BOUNDARY == 0
    array = copy_of(x.numpy())
    assert aligned_array(array).ctypes.data == array.ctypes.data
    moved = aligned_array(off_boundary(x).numpy())
    assert moved.ctypes.data % BOUNDARY == 0
    assert np.array_equal(moved, x.numpy())
    assert aligned_array(np.float32(3).reshape(())).shape == ()
    assert aligned_array(np.zeros((0, 4))).shape == (0, 4)


COPY = """
import os, torch
from passel.backends.tvm.aligned import aligned_tensor
torch.set_num_threads(2)
x = torch.randn(2**22 + 1)
before = len(os.listdir("/proc/self/task"))
y, z = aligned_tensor(x[1:]), aligned_tensor(x[1:].view(2**11, -1).t())
print(before, len(os.listdir("/proc/self/task")))
assert torch.equal(y.clone(), x[1:]) and torch.equal(z.t().flatten(), y)
print(before, len(os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_a_copy_wakes_none_of_torchs_workers():
    """They look for work for a while, where TVM's are to run: calls took half as long again."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", COPY], env=environment, capture_output=True, text=True
    )
    ours, torchs = (line.split() for line in done.stdout.splitlines())
    assert ours[0] == ours[1], done.stderr
    assert torchs[0] != torchs[1]  # which is how one would see it


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (rows(3).double(), rows(3), "input 'rows': expected float32, got float64"),
        (rows(3)[:, :7], rows(3), r"input 'rows': expected shape \(n, 8\), got \(3, 7\)"),
        (rows(3)[0], rows(3), r"input 'rows': expected shape \(n, 8\), got \(8,\)"),
        (rows(3), rows(4), "input 'other': expected n = 3 as in 'rows', got 4"),
        (rows(3).to("meta"), rows(3), "input 'rows': expected a tensor on cpu, got one on meta"),
    ],
)
def test_what_does_not_fit_is_named(session, first, second, message):
    with pytest.raises(InvalidInput, match=message):
        session.run_tensors([first, second])


def test_a_wrong_number_of_inputs(session):
    with pytest.raises(InvalidInput, match="expected 2 inputs, got 1"):
        session.run_tensors([rows(3)])


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int8", "int32", "int64", "float16", "bfloat16", "float64"]
)
def test_element_types_and_scalars(machine, dtype):
    from tvm import relax

    def body(builder, x, scalar):
        if dtype == "bool":
            return relax.op.logical_not(x), relax.op.logical_or(scalar, scalar)
        return relax.op.add(x, x), relax.op.maximum(scalar, scalar)

    kinds = [InputSpec("x", dtype, (5,)), InputSpec("scalar", dtype, ())]
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    x, scalar = np.array([0, 1, 1, 0, 1]).astype(kind), np.array(1).astype(kind)
    one = TvmSession(model(machine, kinds, [], body))
    found, same = one.run_arrays([x, scalar])
    assert found.dtype == x.dtype
    assert np.array_equal(found, ~x if dtype == "bool" else x + x)
    assert same.shape == ()
    assert same == scalar


def test_a_model_without_inputs(machine):
    from tvm import relax

    built = model(machine, [], [WEIGHT], lambda builder, w: [relax.op.add(w, w)])
    assert np.array_equal(TvmSession(built).run_arrays([])[0], 2 * WEIGHT)


def test_weights_are_not_copied(machine):
    from tvm import relax

    weight = copy_of(WEIGHT)
    built = model(machine, [ROWS], [weight], lambda builder, x, w: [relax.op.add(x, w)])
    one = TvmSession(built)
    x = rows(2)
    before = one.run_tensors([x])[0]
    weight += 1
    assert torch.allclose(one.run_tensors([x])[0], before + 1)


def test_each_session_has_its_threads(machine):
    """One pool serves sessions of several sizes, each calling thread having its own."""
    assert use_threads(1) == 1
    assert use_threads(2) == 2
    found: list[int] = []
    other = threading.Thread(target=lambda: found.extend([use_threads(1), use_threads(2)]))
    other.start()
    other.join()
    assert found == [1, 2]


def test_more_threads_than_the_pool_has(session, machine):
    from dataclasses import replace

    many = replace(session.model, machine=replace(machine, threads=64))
    one = TvmSession(many)
    assert one.threads < 64
    assert f"runs on {one.threads} threads instead of 64: TVM's pool" in one.notes[0]
    assert one.run_tensors([rows(3), rows(3)])[0].shape == (3, 8)


def test_a_cpu_that_lacks_what_the_code_uses(session):
    from dataclasses import replace

    other = replace(session.model, machine=machine_of("diamondrapids", 2))
    with pytest.raises(BackendUnavailable, match=r"compiled for 'diamondrapids', and this CPU lac"):
        TvmSession(other)


def test_what_the_vm_cannot_load(session):
    from dataclasses import replace

    with pytest.raises(InvalidModel, match="TVM cannot load the model"):
        TvmSession(replace(session.model, code=Code(object(), {}, [], [])))
