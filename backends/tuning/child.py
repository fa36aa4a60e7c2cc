"""A candidate's process as the search sees it: orders in, answers out, and what ended it."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any

CHUNK = 1 << 16
KEPT = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
"""What a candidate inherits of the environment, besides what begins with `OWN`."""
OWN = ("PASSEL_", "PYTHON", "VIRTUAL_ENV", "CUDA_", "NVIDIA_", "SYSTEMROOT", "TEMP", "TMP", "USER")


class Lost(Exception):
    """The process is gone: it crashed, was killed, or did not answer in time."""


class Child:
    """A process that answers orders, one JSON object a line each way.

    Attributes:
        environment: what it was started with.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self._errors: IO[bytes] = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=self.environment,
            start_new_session=True,  # Ctrl-C on the terminal is for the search alone
        )
        self._buffer = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, order: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """The answer to an order.

        Raises:
            Lost: there is none within so many seconds, or never will be; the process is ended.
        """
        try:
            self._write(json.dumps(order) + "\n")
            return self._answer(time.monotonic() + seconds)
        except TimeoutError:
            self.stop()
            raise Lost(f"no answer within {seconds:.0f} s") from None
        except (BrokenPipeError, EOFError):
            raise Lost(self._ended()) from None
        except KeyboardInterrupt:
            self.stop()
            raise

    def _write(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode())
        self._process.stdin.flush()

    def _answer(self, deadline: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            read = os.read(pipe, CHUNK)
            if not read:
                raise EOFError
            self._buffer += read
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _ended(self) -> str:
        """Why the process ended, in words."""
        try:
            status = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.stop()
            return "stopped answering"
        if status < 0:
            name = signal.Signals(-status).name
            hint = ": out of memory?" if -status == signal.SIGKILL else ""
            return f"the process was ended by {name}{hint}"
        self._errors.seek(0)
        last = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
        return f"the process ended with status {status}" + (f": {last[0]}" if last else "")

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass


def command(module: str, *arguments: str) -> list[str]:
    """A command that runs a module of this package with this interpreter."""
    return [sys.executable, "-W", "ignore", "-P", "-m", module, *arguments]


def environment(threads: int, cores: int) -> dict[str, str]:
    """A small environment of its own, with the pools of threads as a candidate needs them."""
    kept = {
        name: value for name, value in os.environ.items() if name in KEPT or name.startswith(OWN)
    }
    count = str(threads or cores)
    return {**kept, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "TVM_NUM_THREADS": count}
