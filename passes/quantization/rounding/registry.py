"""The rounding algorithms by name."""

from . import Stage
from .rtn import rtn

STAGES: dict[str, Stage] = {
    "rtn": rtn,
}
"""Every algorithm that rounds one weight, by the name that `weights=` takes."""
