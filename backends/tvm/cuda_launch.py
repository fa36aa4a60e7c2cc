"""How the kernels of a scheduled PrimFunc are launched, and whether a GPU can launch them so.

A PrimFunc is lowered as for code generation, which splits it into host code and kernels; each
kernel then says its extents and what it declares. TVM's own checks on the way refuse a store by
the host into device memory, which is what a loop becomes that no thread is bound to.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .cuda_target import SHARED_BYTES, THREADS, dynamic_bytes

if TYPE_CHECKING:
    import tvm

AXES = ("blockIdx.x", "blockIdx.y", "blockIdx.z", "threadIdx.x", "threadIdx.y", "threadIdx.z")
MOST = (2**31 - 1, 65535, 65535, 1024, 1024, 64)
"""The largest extent on each axis, on every architecture."""
LAUNCHED = "tirx.kernel_launch_params"
"""Attribute of a kernel: the axes that its launch gives extents for, in order."""


@dataclass(frozen=True)
class Launch:
    """One kernel's launch.

    Attributes:
        kernel: its name in the source.
        extents: blocks and threads by axis; an extent that depends on a shape is absent.
        shared: bytes of shared memory it declares.
        dynamic: bytes of shared memory that the launch asks for.
    """

    kernel: str
    extents: dict[str, int]
    shared: int
    dynamic: int

    @property
    def threads(self) -> int:
        """Threads of one block; an extent known only at run time counts as 1."""
        count = 1
        for axis, extent in self.extents.items():
            count *= extent if axis.startswith("thread") else 1
        return count

    def excess(self, arch: str) -> str | None:
        """What a GPU of this architecture cannot launch; None where all is within its limits."""
        for axis, most in zip(AXES, MOST, strict=True):
            if self.extents.get(axis, 1) > most:
                return f"{self.extents[axis]} on {axis}, which has {most}"
        if self.threads > THREADS:
            return f"{self.threads} threads in a block, which has {THREADS}"
        if self.shared > SHARED_BYTES:
            return f"{self.shared} bytes of shared memory, of which a block has {SHARED_BYTES}"
        most = dynamic_bytes(arch)
        if self.dynamic > most:
            return f"{self.dynamic} bytes of shared memory, of which a block on {arch} has {most}"
        return None


def launches(
    functions: "dict[str, tvm.tirx.PrimFunc]", target: "tvm.target.Target"
) -> list[Launch]:
    """The launches of scheduled PrimFuncs, given by name.

    Raises:
        RuntimeError: TVM cannot lower a function, because no thread is bound to a loop, say.
    """
    return [_launch(name, kernel) for name, kernel in kernels(functions, target).items()]


def kernels(
    functions: "dict[str, tvm.tirx.PrimFunc]", target: "tvm.target.Target"
) -> "dict[str, tvm.tirx.PrimFunc]":
    """What runs on the GPU of scheduled PrimFuncs, by its name in the source.

    Raises:
        RuntimeError: as `launches`.
    """
    import tvm
    from tvm import tirx

    named = {name: f.with_attr("global_symbol", name) for name, f in functions.items()}
    module = tirx.transform.BindTarget(target)(tvm.IRModule(named))
    with target:
        lowered = tirx.get_default_tir_pipeline(target)[0](module)
    return {
        var.name_hint: function
        for var, function in lowered.functions_items()
        if LAUNCHED in function.attrs
    }


def _launch(name: str, kernel: "tvm.tirx.PrimFunc") -> Launch:
    import tvm_ffi
    from tvm import s_tir, tirx

    extents: dict[str, int] = {}

    def visit(node: "tirx.AttrStmt") -> None:
        if node.attr_key == "thread_extent" and isinstance(node.value, tirx.IntImm):
            extents[node.node.thread_tag] = int(node.value)

    tvm_ffi.structural_walk(kernel.body, (tirx.AttrStmt, visit), order="post")
    (used,) = s_tir.analysis.calculate_allocated_bytes(kernel).values()
    shared, dynamic = (int(used.get(scope, 0)) for scope in ("shared", "shared.dyn"))
    return Launch(name, extents, shared, dynamic)
