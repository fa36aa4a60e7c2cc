"""Where a model is to run: a kind of device, and what may be assumed of it."""

import re
from dataclasses import dataclass, replace
from typing import Self

from ..errors import BackendUnavailable, InvalidInput
from .cpu_features import checked
from .hardware import Hardware, host_arch

KINDS = ("cpu", "cuda")
CPU_ARCH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
CUDA_ARCH = re.compile(r"sm_(\d{2,3})[af]?")
OLDEST_SM = 75
"""The oldest compute capability, times ten, that CUDA 13 compiles for."""
MOST_THREADS = 4096


@dataclass(frozen=True)
class Target:
    """A device, as text "cpu:arch=znver4,threads=2,features=avx2+fma" or "cuda:arch=sm_90".

    Attributes:
        kind: "cpu" or "cuda".
        features: instruction sets of a CPU that code may use (`cpu_features.FEATURES`); () for
            those that the machine has.
        threads: worker threads; 0 for as many cores as this process may keep busy.
        arch: LLVM's name of the CPU, or the GPU's architecture; "" for this machine's.

    Raises:
        InvalidInput: a value that no device has.
    """

    kind: str = "cpu"
    features: tuple[str, ...] = ()
    threads: int = 0
    arch: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InvalidInput(f"target: expected one of {', '.join(KINDS)}, got {self.kind!r}")
        if isinstance(self.threads, bool) or not isinstance(self.threads, int):
            raise InvalidInput(f"target: expected a number of threads, got {self.threads!r}")
        if not 0 <= self.threads <= MOST_THREADS:
            raise InvalidInput(f"target: expected 0 to {MOST_THREADS} threads, got {self.threads}")
        if isinstance(self.features, str):
            raise InvalidInput(f"target: expected a tuple of features, got {self.features!r}")
        object.__setattr__(self, "features", checked(self.features))
        self._check_arch()

    def _check_arch(self) -> None:
        if self.kind == "cpu":
            if self.arch and not CPU_ARCH.fullmatch(self.arch):
                raise InvalidInput(f"target: expected LLVM's name of a CPU, got {self.arch!r}")
            return
        if self.features:
            raise InvalidInput("target: features are of CPUs; a GPU is named by arch='sm_90'")
        found = CUDA_ARCH.fullmatch(self.arch)
        if self.arch and (found is None or int(found[1]) < OLDEST_SM):
            raise InvalidInput(
                f"target: expected a CUDA architecture from sm_{OLDEST_SM} on, such as 'sm_90', "
                f"got {self.arch!r}"
            )

    @classmethod
    def of(cls, target: "str | Target") -> Self:
        """A target from what a caller gave: a `Target`, or its text.

        A "cuda" target without an architecture gets that of the machine's first GPU.

        Raises:
            InvalidInput: the text is that of no target.
            BackendUnavailable: "cuda" on a machine without a GPU.
        """
        if isinstance(target, str):
            target = cls.parse(target)
        if not isinstance(target, cls):
            raise InvalidInput(f"target: expected text or a Target, got {type(target).__name__}")
        if target.kind == "cuda" and not target.arch:
            return target.resolved(Hardware.detect())
        return target

    @classmethod
    def parse(cls, text: str) -> Self:
        """The target that `str` wrote.

        Raises:
            InvalidInput: the text is that of no target.
        """
        kind, _, rest = text.strip().partition(":")
        given = dict(entry.partition("=")[::2] for entry in rest.split(",") if entry)
        if unknown := set(given) - {"arch", "threads", "features"}:
            raise InvalidInput(
                f"target: expected arch, threads and features after {kind!r}, got "
                f"{', '.join(map(repr, sorted(unknown)))} in {text!r}"
            )
        threads, features = given.get("threads", "0"), given.get("features", "")
        if not threads.isdecimal():
            raise InvalidInput(f"target: expected a number of threads, got {threads!r} in {text!r}")
        names = tuple(name for name in features.split("+") if name)
        return cls(kind, names, int(threads), given.get("arch", ""))

    def __str__(self) -> str:
        parts = [f"arch={self.arch}" if self.arch else ""]
        parts += [f"threads={self.threads}" if self.threads else ""]
        parts += [f"features={'+'.join(self.features)}" if self.features else ""]
        inside = ",".join(part for part in parts if part)
        return f"{self.kind}:{inside}" if inside else self.kind

    @classmethod
    def detect(cls) -> Self:
        """This machine's CPU, everything filled in. Imports TVM, if installed, for its name."""
        return cls().resolved(Hardware.detect())

    def resolved(self, hardware: Hardware) -> Self:
        """The target with what it left open filled in from the machine.

        Raises:
            BackendUnavailable: a "cuda" target without architecture, and no GPU.
        """
        threads = self.threads or hardware.usable_cores
        if self.kind == "cuda":
            return replace(self, threads=threads, arch=self.arch or _first_gpu(hardware))
        features = self.features or hardware.features
        return replace(
            self, threads=threads, features=features, arch=self.arch or host_arch(threads)
        )

    def absent(self, hardware: Hardware) -> str:
        """Why code for this target cannot run on a machine; "" if it can."""
        if self.kind == "cuda":
            if not hardware.gpus:
                return "the machine has no NVIDIA GPU that can be seen"
            found = {gpu.arch for gpu in hardware.gpus}
            if self.arch and self.arch.rstrip("af") not in found:
                return f"the machine's GPU is {', '.join(sorted(found))}"
            return ""
        missing = [name for name in self.features if name not in hardware.features]
        return f"the machine's CPU lacks {', '.join(missing)}" if missing else ""


def _first_gpu(hardware: Hardware) -> str:
    if not hardware.gpus:
        raise BackendUnavailable(
            "target 'cuda': the machine has no NVIDIA GPU that can be seen; with an architecture "
            "(\"cuda:arch=sm_90\", Target('cuda', arch='sm_90')) code can be generated without one"
        )
    return hardware.gpus[0].arch
