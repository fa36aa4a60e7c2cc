"""What a rule is, and the attributes of a kernel that is made for one."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..machine import Machine

if TYPE_CHECKING:
    import tvm

    Rule = Callable[[tvm.tirx.PrimFunc, Machine], tvm.s_tir.Schedule | None]
else:
    Rule = Callable

KERNEL = "passel.kernel"
"""Attribute of a kernel that one rule is made for: the name of the rule."""
GROUPS = "passel.groups"
"""Attribute of an attention kernel: the number of heads that keys and values have."""
