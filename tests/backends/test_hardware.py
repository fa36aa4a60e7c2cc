"""What is found out about a machine, from real and from made-up /proc and /sys trees."""

import os
import subprocess
import sys
import types
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passel.backends import cgroup, cpu_facts, gpus, hardware
from passel.backends.cpu_features import FEATURES, canonical, checked, known
from passel.backends.hardware import Gpu, Hardware, fingerprint, usable
from passel.backends.target import Target
from passel.errors import InvalidInput

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and /sys")


def tree(root: Path, files: dict[str, str]) -> Path:
    """A folder that stands for /, with these files."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


# -- CPU ------------------------------------------------------------------------------------------

HYBRID = """
processor\t: 0
cpu family\t: 6
model\t\t: 151
model name\t: 12th Gen Intel(R) Core(TM) i7-12700
flags\t\t: fpu sse4_1 avx avx2 fma f16c avx_vnni avx512f

processor\t: 1
cpu family\t: 6
model\t\t: 151
model name\t: 12th Gen Intel(R) Core(TM) i7-12700
flags\t\t: fpu sse4_1 avx avx2 fma f16c avx_vnni
"""
GRAVITON = """
processor\t: 0
Features\t: fp asimd asimdhp asimddp i8mm bf16 sve
CPU implementer\t: 0x41
CPU part\t: 0xd40
"""


def test_a_cpu_can_do_what_all_of_its_cores_can(tmp_path: Path) -> None:
    found = cpu_facts.cpu(tree(tmp_path, {"proc/cpuinfo": HYBRID}))
    assert found.brand == "12th Gen Intel(R) Core(TM) i7-12700 (cpu family 6, model 151)"
    assert found.features == ("sse4_1", "avx", "avx2", "fma", "f16c", "avx_vnni")


def test_an_arm_cpu(tmp_path: Path) -> None:
    found = cpu_facts.cpu(tree(tmp_path, {"proc/cpuinfo": GRAVITON}))
    assert found.brand == "(CPU implementer 0x41, CPU part 0xd40)"
    assert found.features == ("neon", "fp16", "dotprod", "i8mm", "bf16", "sve")


def test_without_proc_cpuinfo_asks_the_cpu(tmp_path: Path, monkeypatch: Any) -> None:
    answer = {"brand_raw": "Apple M2", "flags": ["avx512vnni", "fma", "sse4.1", "unheard-of"]}
    fake = types.SimpleNamespace(get_cpu_info=lambda: answer)
    monkeypatch.setitem(sys.modules, "cpuinfo", fake)
    assert cpu_facts.cpu(tmp_path) == cpu_facts.Cpu("Apple M2", ("sse4_1", "fma", "avx512_vnni"))


def test_hyperthreads_of_one_core_count_once(tmp_path: Path) -> None:
    folder = "sys/devices/system/cpu"
    siblings = {0: "0,4", 1: "1,5", 2: "2", 3: "3", 4: "0,4", 5: "1,5"}
    files = {f"{folder}/cpu{n}/topology/thread_siblings_list": s for n, s in siblings.items()}
    root = tree(tmp_path, {**files, f"{folder}/online": "0-5\n", f"{folder}/cpufreq/x": ""})
    assert cpu_facts.logical_cores(root) == 6
    assert cpu_facts.physical_cores(root=root) == 4
    assert cpu_facts.physical_cores({0, 4}, root) == 1
    assert cpu_facts.physical_cores({0, 1, 5}, root) == 2
    assert cpu_facts.physical_cores({7, 8}, root) == 2  # the system does not say


@linux
def test_this_machine_against_lscpu() -> None:
    try:
        text = subprocess.check_output(["lscpu", "-p=CPU,CORE,SOCKET,ONLINE"], text=True)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("needs lscpu")
    rows = [line.split(",") for line in text.splitlines() if not line.startswith("#")]
    assert cpu_facts.logical_cores() == len(rows)
    assert cpu_facts.physical_cores() == len({(core, socket) for _, core, socket, _ in rows})


@linux
def test_affinity_bounds_what_is_usable() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert Hardware.detect().usable_cores == 1
    finally:
        os.sched_setaffinity(0, before)
    assert 1 <= Hardware.detect().usable_cores <= len(before)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("avx512_vnni", "avx512_vnni"),
        ("AVX512-VNNI", "avx512_vnni"),
        ("avx512vnni", "avx512_vnni"),
        ("amx-int8", "amx_int8"),
        ("sse4.2", "sse4_2"),
        ("sse41", "sse4_1"),
        ("asimddp", "dotprod"),
        ("3dnow", None),
        ("", None),
    ],
)
def test_one_spelling(name: str, expected: str | None) -> None:
    assert canonical(name) == expected


@given(st.lists(st.sampled_from(FEATURES)))
def test_features_come_in_one_order(names: list[str]) -> None:
    found = known(name.upper().replace("_", "-") for name in names)
    assert set(found) == set(names)
    assert found == checked(reversed(names)) == checked(found)


def test_an_unknown_feature_is_named_with_those_close_to_it() -> None:
    with pytest.raises(InvalidInput, match=r"unknown 'avx3'; expected .*avx2"):
        checked(["fma", "avx3"])


# -- limits ---------------------------------------------------------------------------------------

V2, V1 = "0::/pod/box\n", "4:memory:/pod/box\n3:cpu,cpuacct:/pod/box\n1:name=systemd:/\n"
GROUPS = "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({f"{GROUPS}/pod/box/cpu.max": "250000 100000\n"}, 2.5),
        ({f"{GROUPS}/pod/box/cpu.max": "max 100000\n"}, None),
        ({f"{GROUPS}/pod/box/cpu.max": "max\n", f"{GROUPS}/pod/cpu.max": "50000 100000"}, 0.5),
        ({f"{GROUPS}/pod/box/cpu.max": "300000 100000", f"{GROUPS}/pod/cpu.max": "4000 1000"}, 3.0),
        ({f"{GROUPS}/cpu.max": "150000\n"}, 1.5),  # in a container: only the top is there
        ({}, None),
    ],
)
def test_quota_of_version_2(tmp_path: Path, files: dict[str, str], limit: float | None) -> None:
    assert cgroup.cpu_limit(tree(tmp_path, {"proc/self/cgroup": V2, **files})) == limit


@pytest.mark.parametrize(
    ("folder", "quota", "limit"),
    [
        (f"{GROUPS}/cpu,cpuacct/pod/box", "150000", 1.5),
        (f"{GROUPS}/cpu/pod", "200000", 2.0),
        (f"{GROUPS}/cpu", "-1", None),
    ],
)
def test_quota_of_version_1(tmp_path: Path, folder: str, quota: str, limit: float | None) -> None:
    files = {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": "100000\n"}
    assert cgroup.cpu_limit(tree(tmp_path, {"proc/self/cgroup": V1, **files})) == limit


@pytest.mark.parametrize(
    ("membership", "files", "limit"),
    [
        (V2, {f"{GROUPS}/pod/memory.max": "1073741824\n"}, 1 << 30),
        (V2, {f"{GROUPS}/pod/memory.max": "max\n"}, None),
        (V1, {f"{GROUPS}/memory/pod/box/memory.limit_in_bytes": "4096\n"}, 4096),
        (V1, {f"{GROUPS}/memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        (V1, {}, None),
    ],
)
def test_memory_limits(
    tmp_path: Path, membership: str, files: dict[str, str], limit: int | None
) -> None:
    root = tree(tmp_path, {"proc/self/cgroup": membership, **files})
    assert cgroup.memory_limit(root) == limit


def test_no_control_groups(tmp_path: Path) -> None:
    assert cgroup.cpu_limit(tmp_path) is None
    assert cgroup.memory_limit(tmp_path) is None


@pytest.mark.parametrize(
    ("cores", "quota", "expected"), [(8, None, 8), (8, 2.5, 2), (2, 2.5, 2), (4, 0.5, 1)]
)
def test_usable_cores(cores: int, quota: float | None, expected: int) -> None:
    assert usable(cores, quota) == expected


def test_memory(tmp_path: Path) -> None:
    assert cpu_facts.memory(tree(tmp_path, {"proc/meminfo": "MemTotal:  16 kB\n"})) == 16384
    if sys.platform == "linux":
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        assert cpu_facts.memory() == pytest.approx(pages, rel=0.01)


# -- GPUs -----------------------------------------------------------------------------------------

LISTED = "NVIDIA H100 80GB HBM3, 9.0, 81559\nTesla, T4, 7.5, 15360\nBroken, [N/A], [N/A]\n"
BOTH = (
    Gpu("NVIDIA H100 80GB HBM3", "sm_90", 81559 << 20),
    Gpu("Tesla, T4", "sm_75", 15360 << 20),
)


def fake_driver(folder: Path, monkeypatch: Any, body: str) -> None:
    """Put an nvidia-smi on the path."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@linux
def test_gpus_as_the_driver_lists_them(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    fake_driver(tmp_path, monkeypatch, f"printf '{LISTED}'")
    assert gpus.gpus() == BOTH == Hardware.detect().gpus
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert gpus.gpus() == BOTH[1:]


@linux
@pytest.mark.parametrize("body", ["exit 9", "echo NVIDIA-SMI has failed", "sleep 5"])
def test_a_driver_that_does_not_work(tmp_path: Path, monkeypatch: Any, body: str) -> None:
    monkeypatch.setattr(gpus, "PATIENCE", 0.3)
    monkeypatch.setattr(gpus, "_by_torch", lambda: ())
    fake_driver(tmp_path, monkeypatch, body)
    assert gpus.gpus() == ()


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        (None, BOTH),
        ("", ()),
        ("-1", ()),
        ("0", BOTH[:1]),
        ("1,0", BOTH[::-1]),
        ("0,7,1", BOTH[:1]),
        ("GPU-1234", BOTH),
    ],
)
def test_visible_devices(variable: str | None, expected: tuple[Gpu, ...]) -> None:
    assert gpus.visible(BOTH, variable) == expected


def test_gpus_as_torch_sees_them(monkeypatch: Any) -> None:
    seen = types.SimpleNamespace(name="L4", major=8, minor=9, total_memory=123)
    cuda = types.SimpleNamespace(
        is_available=lambda: True, device_count=lambda: 1, get_device_properties=lambda _: seen
    )
    fake = types.SimpleNamespace(version=types.SimpleNamespace(cuda="13.0"), cuda=cuda)
    monkeypatch.setitem(sys.modules, "torch", fake)
    monkeypatch.setattr(gpus.shutil, "which", lambda _: None)
    assert gpus.gpus() == (Gpu("L4", "sm_89", 123),)


# -- all together ---------------------------------------------------------------------------------


def test_versions(monkeypatch: Any) -> None:
    found = Hardware.detect()
    assert dict(found.runtimes)["torch"] == version("torch")
    assert f"onnxruntime={version('onnxruntime')}" in found.versions
    assert found.versions.startswith("passel=")
    other = replace(found, runtimes=(*found.runtimes, ("openvino", "2030.1")))
    assert other.versions == found.versions  # nothing runs on it
    monkeypatch.setattr(hardware, "version_of", lambda package: None)
    assert hardware.installed() == ()


MACHINE = Hardware(
    cpu="Some CPU",
    features=("avx2", "fma"),
    physical_cores=8,
    logical_cores=16,
    usable_cores=4,
    cpu_limit=None,
    memory=1 << 34,
    memory_limit=None,
    gpus=BOTH,
    runtimes=(("torch", "2.13"),),
)
SM_90 = Target("cuda", arch="sm_90")


@pytest.fixture
def known_arch(monkeypatch: Any) -> None:
    monkeypatch.setattr(hardware, "host_arch", lambda threads=0: "znver4")


@pytest.mark.usefixtures("known_arch")
def test_fingerprint_of_what_is_the_same() -> None:
    own = fingerprint(MACHINE, Target())
    assert len(own) == 16
    for target in (
        Target(threads=4),
        Target(arch="znver4"),
        Target(features=("fma", "avx2")),
        Target(threads=4, arch="znver4", features=("fma", "avx2")),
    ):
        assert fingerprint(MACHINE, target) == own
    for machine in (
        replace(MACHINE, memory=1),
        replace(MACHINE, gpus=()),
        replace(MACHINE, runtimes=()),
        replace(MACHINE, physical_cores=9),
    ):
        assert fingerprint(machine, Target()) == own
    assert fingerprint(MACHINE, Target("cuda")) == fingerprint(MACHINE, SM_90)


@pytest.mark.usefixtures("known_arch")
def test_fingerprints_of_what_differs() -> None:
    pairs = [
        (MACHINE, Target()),
        (replace(MACHINE, cpu="Another CPU"), Target()),
        (replace(MACHINE, features=("avx2",)), Target()),
        (replace(MACHINE, usable_cores=2), Target()),
        (MACHINE, Target(threads=3)),
        (MACHINE, Target(arch="haswell")),
        (MACHINE, Target(features=("fma",))),
        (MACHINE, SM_90),
        (MACHINE, Target("cuda", arch="sm_80")),
        (replace(MACHINE, gpus=BOTH[1:]), SM_90),
    ]
    assert len({fingerprint(*pair) for pair in pairs}) == len(pairs)


def test_detection_imports_no_runtime() -> None:
    code = (
        "import sys; from passel.backends.hardware import Hardware, fingerprint\n"
        "from passel.backends.target import Target\n"
        "fingerprint(Hardware.detect(), Target.of('cpu:threads=2'))\n"
        "sys.exit(', '.join({'torch', 'tvm', 'onnxruntime'} & set(sys.modules)) or 0)"
    )
    assert subprocess.run([sys.executable, "-P", "-c", code]).returncode == 0
