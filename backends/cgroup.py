"""What a container may use: Linux control groups, version 1 and 2.

A limit may be set on the group that the process is in or on any group above it; the tightest holds.
Inside a container the path that the kernel names is often one of the host, which is not there: then
the limits lie at the top of the mounted hierarchy.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path("/")
UNLIMITED = 1 << 60
"""Version 1 writes a number of this size where it means no limit."""


def cpu_limit(root: Path = ROOT) -> float | None:
    """How many CPUs' worth of time the groups allow; None without a quota."""
    return _tightest(root, "cpu", _quota_v1, _quota_v2)


def memory_limit(root: Path = ROOT) -> int | None:
    """Bytes of memory that the groups allow; None without a limit."""
    found = _tightest(root, "memory", _memory_v1, _memory_v2)
    return None if found is None else int(found)


Read = Callable[[Path], float | None]


def _tightest(root: Path, controller: str, first: Read, second: Read) -> float | None:
    found = [first(folder) for folder in _folders_v1(root, controller)]
    found += [second(folder) for folder in _folders_v2(root)]
    return min((limit for limit in found if limit is not None), default=None)


def _folders_v1(root: Path, controller: str) -> Iterator[Path]:
    mounts = root / "sys" / "fs" / "cgroup"
    for _, controllers, path in _memberships(root):
        names = controllers.split(",")
        if controller in names:
            for top in dict.fromkeys((mounts / controllers, mounts / controller)):
                yield from _upwards(top, path)


def _folders_v2(root: Path) -> Iterator[Path]:
    mounts = root / "sys" / "fs" / "cgroup"
    for number, controllers, path in _memberships(root):
        if number == "0" and not controllers:
            for top in (mounts, mounts / "unified"):
                yield from _upwards(top, path)


def _memberships(root: Path) -> Iterator[tuple[str, str, str]]:
    """Lines of /proc/self/cgroup: number of the hierarchy, its controllers, the group's path."""
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        yield number, controllers, path


def _upwards(top: Path, path: str) -> Iterator[Path]:
    """The folder of a group and of every group above it."""
    parts = [part for part in path.split("/") if part and part != ".."]
    for count in range(len(parts), -1, -1):
        yield top.joinpath(*parts[:count])


def _quota_v1(folder: Path) -> float | None:
    quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return quota / period if quota and period and quota > 0 else None


def _quota_v2(folder: Path) -> float | None:
    words = _text(folder / "cpu.max").split()
    if not words or not words[0].isdigit():  # "max"
        return None
    return int(words[0]) / int(words[1] if len(words) > 1 else 100_000)


def _memory_v1(folder: Path) -> float | None:
    limit = _number(folder / "memory.limit_in_bytes")
    return limit if limit is not None and 0 < limit < UNLIMITED else None


def _memory_v2(folder: Path) -> float | None:
    return _number(folder / "memory.max")  # "max" is no number


def _number(file: Path) -> int | None:
    try:
        return int(_text(file))
    except ValueError:
        return None


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
