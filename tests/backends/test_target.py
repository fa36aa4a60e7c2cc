"""Targets: their text, what is refused, and what the machine lacks."""

import os
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import passel
from passel.backends import hardware
from passel.backends.cpu_features import FEATURES
from passel.backends.hardware import Gpu, Hardware
from passel.backends.target import Target
from passel.errors import BackendUnavailable, InvalidInput

H100 = Gpu("NVIDIA H100", "sm_90", 80 << 30)


@pytest.fixture
def machine() -> Hardware:
    """A made-up machine: four usable cores with AVX2, an H100."""
    return Hardware("CPU", ("avx2", "fma"), 8, 16, 4, None, 1 << 34, None, (H100,), ())


cpus = st.builds(
    Target,
    st.just("cpu"),
    st.lists(st.sampled_from(FEATURES)).map(tuple),
    st.integers(0, 4096),
    st.sampled_from(["", "znver4", "skylake-avx512", "x86-64-v3", "apple-m1", "cortex-a76"]),
)
gpus = st.builds(
    Target,
    st.just("cuda"),
    threads=st.integers(0, 64),
    arch=st.sampled_from(["", "sm_75", "sm_90a", "sm_100", "sm_120f"]),
)


@given(cpus | gpus)
def test_the_text_of_a_target_is_read_back(target: Target) -> None:
    assert Target.parse(str(target)) == target
    assert hash(Target.parse(str(target))) == hash(target)


def test_targets_are_public_and_compare_by_what_they_mean() -> None:
    assert passel.Target is Target
    assert Target(features=("FMA", "avx512-vnni")) == Target(features=("avx512vnni", "fma"))
    assert str(Target()) == "cpu"
    assert str(Target(features=("fma",), threads=2, arch="znver4")) == (
        "cpu:arch=znver4,threads=2,features=fma"
    )
    assert Target.parse(" cuda:arch=sm_90 ") == Target("cuda", arch="sm_90")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Target("tpu"), "target: expected one of cpu, cuda, got 'tpu'"),
        (lambda: Target(threads=-1), "expected 0 to 4096 threads, got -1"),
        (lambda: Target(threads=5000), "expected 0 to 4096 threads, got 5000"),
        (lambda: Target(threads=True), "expected a number of threads, got True"),
        (lambda: Target(threads=2.0), r"expected a number of threads, got 2\.0"),
        (lambda: Target(features="avx2"), "expected a tuple of features, got 'avx2'"),
        (lambda: Target(features=("avx9",)), "features: unknown 'avx9'"),
        (lambda: Target(arch="znver4 -mattr=x"), "expected LLVM's name of a CPU"),
        (lambda: Target("cuda", features=("avx2",)), "features are of CPUs"),
        (lambda: Target("cuda", arch="hopper"), "such as 'sm_90', got 'hopper'"),
        (lambda: Target("cuda", arch="sm_9"), "got 'sm_9'"),
        (lambda: Target("cuda", arch="sm_60"), "from sm_75 on"),
        (lambda: Target.parse("cpu:mcpu=znver4"), "got 'mcpu' in 'cpu:mcpu=znver4'"),
        (lambda: Target.parse("cpu:threads=two"), "got 'two' in 'cpu:threads=two'"),
        (lambda: Target.parse(""), "expected one of cpu, cuda, got ''"),
        (lambda: Target.of(3), "expected text or a Target, got int"),
    ],
)
def test_what_is_no_target(make: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        make()


def test_of() -> None:
    target = Target(threads=2)
    assert Target.of(target) is target
    assert Target.of("cpu") == Target()
    assert Target.of("cuda:arch=sm_80") == Target("cuda", arch="sm_80")


def test_cuda_takes_the_architecture_of_the_gpu_there_is(monkeypatch: Any) -> None:
    monkeypatch.setattr(hardware, "gpus", lambda: (H100,))
    assert Target.of("cuda") == Target("cuda", arch="sm_90", threads=Target.of("cuda").threads)
    monkeypatch.setattr(hardware, "gpus", lambda: ())
    with pytest.raises(BackendUnavailable, match=r"no NVIDIA GPU .*cuda:arch=sm_90"):
        Target.of("cuda")


def test_resolved_fills_in_what_is_open_only(machine: Hardware, monkeypatch: Any) -> None:
    monkeypatch.setattr("passel.backends.target.host_arch", lambda threads=0: f"cpu-{threads}")
    full = Target(features=("avx2", "fma"), threads=4, arch="cpu-4")
    assert Target().resolved(machine) == full
    assert full.resolved(machine) == full
    named = Target(features=("fma",), threads=1, arch="haswell")
    assert named.resolved(machine) == named
    assert Target("cuda").resolved(machine) == Target("cuda", arch="sm_90", threads=4)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (Target(), ""),
        (Target(features=("avx2",)), ""),
        (Target(features=("avx2", "amx_int8")), "the machine's CPU lacks amx_int8"),
        (Target("cuda", arch="sm_90"), ""),
        (Target("cuda", arch="sm_90a"), ""),
        (Target("cuda", arch="sm_80"), "the machine's GPU is sm_90"),
    ],
)
def test_what_a_machine_lacks(machine: Hardware, target: Target, reason: str) -> None:
    assert target.absent(machine) == reason
    if target.kind == "cuda":
        assert "no NVIDIA GPU" in target.absent(replace(machine, gpus=()))


def test_detect_is_this_machine() -> None:
    found = Target.detect()
    assert found.kind == "cpu"
    assert found.absent(Hardware.detect()) == ""
    if sys.platform == "linux":
        assert 1 <= found.threads <= len(os.sched_getaffinity(0))


def test_detect_names_the_cpu_as_llvm_does() -> None:
    pytest.importorskip("tvm", reason="needs TVM to ask LLVM")
    from passel.backends.tvm.machine import machine_of

    found = Target.detect()
    assert found.arch
    machine = machine_of(found.arch, found.threads)
    assert ("avx512f" in found.features) == (machine.vector_bytes == 64)
    assert ("avx512_vnni" in found.features) == (machine.dot == "avx512vnni")


def test_without_tvm_the_cpu_has_no_name(monkeypatch: Any) -> None:
    monkeypatch.setattr("passel.backends.tvm.available.version_of", lambda package: None)
    assert Target.detect().arch == ""
