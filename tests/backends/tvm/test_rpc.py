"""Measurement on another machine: addresses, what is missing, and a real tracker on loopback."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest

import passel
from passel.backends.explain import InputSpec
from passel.backends.tvm.metaschedule import tune
from passel.backends.tvm.rpc import KEY, Remote, check_remote, remote_runner
from passel.errors import BackendUnavailable, InvalidInput
from passel.tools import cli
from tests.backends.tvm.programs import module
from tests.tools.conftest import make_block

HOST = "127.0.0.1"


@pytest.mark.parametrize(
    ("address", "remote"),
    [
        ("box:9190", Remote("box", 9190, KEY)),
        ("10.0.0.2:1/phone", Remote("10.0.0.2", 1, "phone")),
        ("[::1]:9190", Remote("::1", 9190, KEY)),
    ],
)
def test_addresses(address, remote):
    assert Remote.of(address) == remote


@pytest.mark.parametrize("address", ["", "box", "box:", ":9190", "box:port", "box:0", "box:70000"])
def test_what_is_no_address(address):
    with pytest.raises(InvalidInput, match="rpc: expected host:port or host:port/key"):
        Remote.of(address)


def free_port() -> int:
    with socket.socket() as one:
        one.bind((HOST, 0))
        return int(one.getsockname()[1])


def test_nobody_answers():
    port = free_port()
    with pytest.raises(BackendUnavailable, match=rf"no tracker answers at {HOST}:{port} .*start"):
        check_remote(Remote(HOST, port))


def test_something_else_answers():
    with socket.create_server((HOST, 0)) as server:
        import threading

        def hang_up() -> None:
            with contextlib.suppress(OSError):
                while True:
                    server.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        with pytest.raises(BackendUnavailable, match="is no TVM tracker: start one with"):
            check_remote(Remote(HOST, server.getsockname()[1]))


def started(*arguments: str) -> "subprocess.Popen[bytes]":
    """A module of TVM's as a process group of its own, bound to this machine only."""
    command = [sys.executable, "-P", "-m", *arguments]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = {**os.environ, "TVM_NUM_THREADS": "2"}
    return subprocess.Popen(command, start_new_session=True, env=environment, **quiet)


def members(group: int) -> list[int]:
    """Processes of a group that are alive."""
    found = []
    for process in psutil.process_iter(["pid", "status"]):
        with contextlib.suppress(OSError, psutil.Error):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


@pytest.fixture(scope="module")
def tracker() -> Iterator[Remote]:
    """A tracker with one machine, all ended with what they started."""
    remote, port = Remote(HOST, free_port()), free_port()
    at = f"{HOST}:{remote.port}"
    running = [
        started("tvm.exec.rpc_tracker", "--host", HOST, "--port", str(remote.port),
                "--port-end", str(remote.port + 1)),
    ]  # fmt: skip
    try:
        _wait(lambda: socket.create_connection((HOST, remote.port), 1).close())
        running.append(
            started("tvm.exec.rpc_server", "--host", HOST, "--tracker", at, "--key", KEY,
                    "--port", str(port), "--port-end", str(port + 10))
        )  # fmt: skip
        _wait(lambda: check_remote(remote))
        yield remote
    finally:
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
        _wait(lambda: _none([p for process in running for p in members(process.pid)]))


def _wait(attempt: Callable[[], object], seconds: float = 240.0) -> None:
    """Try until it raises nothing."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            attempt()
            return
        except (OSError, BackendUnavailable, AssertionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _none(left: list[int]) -> None:
    assert not left, f"processes are left: {left}"


@pytest.mark.slow
def test_a_key_that_no_machine_has(tracker):
    other = Remote(tracker.host, tracker.port, "phone")
    with pytest.raises(BackendUnavailable, match="has no machine of key 'phone': start python"):
        check_remote(other)


@pytest.mark.slow
def test_a_kernel_is_tuned_over_loopback(tracker, machine, tmp_path: Path):
    from tvm import relax

    spec = InputSpec("x", "float32", (24, 40))
    written = module([spec], [], lambda builder, x: [relax.op.nn.softmax(x, axis=-1)])
    tuned = tune(written, machine, tmp_path, 900.0, trials=4, runner=remote_runner(tracker))
    lines = (tmp_path / "database_tuning_record.json").read_text().splitlines()
    assert tuned.trials >= 2
    assert len(lines) >= 1
    for winner in tuned.winners.values():
        assert winner.trace
        assert winner.microseconds < winner.before


@pytest.mark.slow
def test_the_command_tunes_over_loopback(tracker, tmp_path, monkeypatch, capsys):
    """`passel tune --rpc`: kernels are measured on the tracker's device, the result runs there."""
    from tvm.target.codegen import llvm_get_system_cpu

    onnx.save(make_block(batch=2), tmp_path / "in.onnx")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PASSEL_CACHE", str(tmp_path / "cache"))
    at = f"{tracker.host}:{tracker.port}"
    target = f"cpu:arch={llvm_get_system_cpu()},threads=2"
    words = f"tune in.onnx --rpc {at} --target {target} --budget 90s -o there"
    assert cli.main(words.split()) == 0
    assert "saved to there" in capsys.readouterr().out
    (folder,) = (tmp_path / "cache" / "kernels").iterdir()
    assert folder.name.startswith(KEY)
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    expected = passel.compile("in.onnx", measure=False)(x)
    assert np.allclose(passel.load("there")(x), expected, atol=1e-5)
