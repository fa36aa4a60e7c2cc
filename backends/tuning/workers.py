"""Who works on a study: processes by machine, number and the time they began."""

import os
import socket
from pathlib import Path


def worker_name() -> str:
    """This process, by machine, number and the time it began."""
    return f"{socket.gethostname()}:{os.getpid()}:{_began(os.getpid())}"


def is_alive(name: str) -> bool:
    """Whether a process "number:beginning" of this machine still runs."""
    number, _, began = name.partition(":")
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _began(int(number)) == began


def _began(number: int) -> str:
    """When a process began, in ticks since the system did; a number may be used again."""
    try:
        text = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[19]
