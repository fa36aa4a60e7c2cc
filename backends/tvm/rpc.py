"""Measure on another machine through TVM's RPC tracker.

Here schedules are made and compiled; the tracker lends a machine that runs them:

    python -m tvm.exec.rpc_tracker --host ADDRESS --port 9190
    python -m tvm.exec.rpc_server --host ADDRESS --tracker ADDRESS:9190 --key passel

Both listen on every address by default, and whoever reaches them can run code: give --host.
"""

import socket
from dataclasses import dataclass
from typing import Any, Self

from ...errors import BackendUnavailable, InvalidInput

KEY = "passel"
"""What the machines of a tracker are asked for by, unless an address names another key."""
CONNECT_SECONDS = 5.0
SESSION_SECONDS = 60


@dataclass(frozen=True)
class Remote:
    """A tracker, and the key of its machines."""

    host: str
    port: int
    key: str = KEY

    @classmethod
    def of(cls, address: str) -> Self:
        """From "host:port" or "host:port/key".

        Raises:
            InvalidInput: it is something else.
        """
        place, _, key = address.partition("/")
        host, _, port = place.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise InvalidInput(f"rpc: expected host:port or host:port/key, got {address!r}")
        return cls(host.strip("[]"), int(port), key or KEY)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}/{self.key}"


def check_remote(remote: Remote) -> None:
    """Say so if nothing answers, or if the tracker has no such machine.

    Raises:
        BackendUnavailable: with what to start.
    """
    start = f"python -m tvm.exec.rpc_tracker --host {remote.host} --port {remote.port}"
    try:
        socket.create_connection((remote.host, remote.port), CONNECT_SECONDS).close()
    except OSError as error:
        raise BackendUnavailable(
            f"rpc: no tracker answers at {remote.host}:{remote.port} ({error}): start one there "
            f"with {start}"
        ) from error
    servers = _summary(remote, start).get("server_info", ())
    if not any(str(one.get("key")) == f"server:{remote.key}" for one in servers):
        raise BackendUnavailable(
            f"rpc: the tracker at {remote.host}:{remote.port} has no machine of key "
            f"{remote.key!r}: start python -m tvm.exec.rpc_server --tracker "
            f"{remote.host}:{remote.port} --key {remote.key} on one"
        )


def remote_runner(remote: Remote) -> Any:
    """What MetaSchedule measures with, for `metaschedule.tune`.

    Raises:
        BackendUnavailable: the tracker does not answer, or has no such machine.
    """
    check_remote(remote)
    from .stubs import in_worker, stub_intrinsics

    stub_intrinsics()
    from tvm.s_tir import meta_schedule as ms

    from .metaschedule_tasks import evaluator

    config = ms.runner.RPCConfig(
        tracker_host=remote.host,
        tracker_port=remote.port,
        tracker_key=remote.key,
        session_timeout_sec=SESSION_SECONDS,
    )
    return ms.runner.RPCRunner(
        rpc_config=config,
        evaluator_config=evaluator(),
        max_workers=1,
        initializer=in_worker(),
    )


def _summary(remote: Remote, start: str) -> dict[str, Any]:
    from tvm import rpc

    try:
        return dict(rpc.connect_tracker(remote.host, remote.port).summary())
    except Exception as error:  # whatever listens there does not speak the tracker's protocol
        raise BackendUnavailable(
            f"rpc: what listens at {remote.host}:{remote.port} is no TVM tracker: start one with "
            f"{start}"
        ) from error
