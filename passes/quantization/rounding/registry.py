"""The rounding algorithms by name."""

from . import Stage
from .adaround import adaround
from .binary import binary
from .codebook import codebook
from .flexround import flexround
from .gptq import gptq
from .lorc import lorc
from .mse import mse
from .nupes import nupes
from .partial_binary import partial_binary
from .pow2 import pow2, pow2_group
from .ptq161 import ptq161
from .rtn import rtn
from .shiftquant import shiftquant
from .statsq import statsq
from .ternary import ternary

STAGES: dict[str, Stage] = {
    "rtn": rtn,
    "binary": binary,
    "ternary": ternary,
    "partial-binary": partial_binary,
    "ptq161": ptq161,
    "pow2": pow2,
    "pow2-group": pow2_group,
    "nupes": nupes,
    "codebook": codebook,
    "statsq": statsq,
    "shiftquant": shiftquant,
    "lorc": lorc,
    "mse": mse,
    "gptq": gptq,
    "flexround": flexround,
    "adaround": adaround,
}
"""Every algorithm that rounds one weight, by the name that `weights=` takes."""
