"""Machine code for a GPU from generated CUDA source, by NVIDIA's compiler.

TVM itself would ask nvcc for fast math (approximate division, square roots and exponentials, small
numbers flushed to zero), with which quantized codes and norms differ from those of every other
runtime. Here code is compiled without it.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from ...errors import BackendUnavailable, InvalidModel

FLAGS = ("-O3", "--cubin", "--disable-warnings")
SECONDS = 600
"""How long one run of the compiler may take."""
INSTALL = (
    "install the CUDA toolkit (13.0 or newer) and put its bin folder on PATH, or set CUDA_HOME"
)

_compiled: dict[tuple[str, str], bytes] = {}
"""Machine code by hash of the source and architecture."""


def find_nvcc() -> str | None:
    """Path of NVIDIA's compiler: on PATH, or in the toolkit that CUDA_HOME names."""
    home = os.environ.get("CUDA_HOME")
    return shutil.which("nvcc") or (shutil.which("nvcc", path=f"{home}/bin") if home else None)


def cubin(source: str, arch: str) -> bytes:
    """Machine code of generated source that runs on an architecture; remembered, once compiled.

    Raises:
        BackendUnavailable: there is no nvcc, or it does not know the architecture.
        InvalidModel: nvcc refuses the source.
    """
    digest = _hash(source)
    for (known, made_for), code in _compiled.items():
        if known == digest and runs_on(made_for, arch):
            return code
    return _compiled.setdefault((digest, arch), _compile(source, arch))


def remember(source: str, arch: str, code: bytes) -> None:
    """Machine code that was compiled before, say for a saved model."""
    _compiled[_hash(source), arch] = code


def runs_on(arch: str, device: str) -> bool:
    """Whether code for one architecture runs on a device of another.

    It does within a major version, from an older minor one (8.0) to a newer one (8.6); code that
    uses what one architecture alone has (sm_90a) runs nowhere else.
    """
    old, new = arch.removeprefix("sm_"), device.removeprefix("sm_")
    if not (old.isdigit() and new.isdigit()):
        return old == new
    return old[:-1] == new[:-1] and old[-1] <= new[-1]


def _hash(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()


def _compile(source: str, arch: str) -> bytes:
    nvcc = find_nvcc()
    if nvcc is None:
        raise BackendUnavailable(f"compiling CUDA code for {arch} needs nvcc: {INSTALL}")
    with tempfile.TemporaryDirectory(prefix="passel-") as folder:
        code, result = Path(folder, "kernels.cu"), Path(folder, "kernels.cubin")
        code.write_text(source, encoding="utf-8")
        command = [nvcc, *FLAGS, f"-arch={arch}", "-o", str(result), str(code)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BackendUnavailable(f"{nvcc} failed on code for {arch}: {error}") from error
        if done.returncode:
            raise _refused(nvcc, arch, done.stderr or done.stdout)
        return result.read_bytes()


def _refused(nvcc: str, arch: str, said: str) -> Exception:
    """nvcc's complaint: about the architecture, or about the source."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    first = next((line for line in lines if "error" in line or "fatal" in line), (lines or [""])[0])
    if "gpu-architecture" in said or "gpu architecture" in said:
        return BackendUnavailable(f"{nvcc} does not know {arch}: {first}; {INSTALL}")
    return InvalidModel(f"{nvcc} refused the generated code for {arch}: {first}")
