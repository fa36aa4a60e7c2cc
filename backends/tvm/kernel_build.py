"""Compile kernels as functions on their own, all at once where none of them is at fault."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .machine import Machine

if TYPE_CHECKING:
    import tvm

    Group = Mapping[str, tvm.tirx.PrimFunc]


def compiled_groups(
    groups: "Sequence[Group]", machine: Machine
) -> Iterator[dict[str, Any] | Exception]:
    """The functions of each group by name, or why the group does not compile."""
    if not groups:
        return
    try:
        together = _compiled(groups, machine)
    except Exception:  # of any of TVM's passes, or of LLVM
        together = None  # one of them is at fault, so each is tried alone
    for index, group in enumerate(groups):
        try:
            yield together[index] if together else _compiled([group], machine)[0]
        except Exception as error:  # the same ones
            yield error


def _compiled(groups: "Sequence[Group]", machine: Machine) -> list[dict[str, Any]]:
    import tvm

    symbols = [{name: f"k{i}_{j}" for j, name in enumerate(g)} for i, g in enumerate(groups)]
    functions = {
        symbol: group[name].with_attr("global_symbol", symbol)
        for group, named in zip(groups, symbols, strict=True)
        for name, symbol in named.items()
    }
    library = tvm.tirx.build(tvm.IRModule(functions), target=machine.target())
    return [{name: library[symbol] for name, symbol in named.items()} for named in symbols]
