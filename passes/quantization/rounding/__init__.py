"""Weight rounding by named, composable algorithms.

A stage takes the layer, the format asked for and what the stage before made of the weight (None at
first), and gives a better one: `mse` chooses scales, `gptq` then chooses the codes at those scales,
`lorc` adds a correction.
"""

from collections.abc import Callable, Sequence

from ..layer import LayerData
from ..rounded import Format, Rounded

Stage = Callable[[LayerData, Format, Rounded | None], Rounded]
"""One algorithm; pure and deterministic."""


def round_weight(layer: LayerData, wanted: Format, names: Sequence[str]) -> Rounded:
    """Apply the named algorithms in order; `names` empty means round to nearest.

    Raises:
        ValueError: an unknown name, or stages that do not go together.
    """
    from .registry import STAGES

    found: Rounded | None = None
    for name in names or ("rtn",):
        if name not in STAGES:
            raise ValueError(f"expected weights in {tuple(STAGES)}, got {name!r}")
        found = STAGES[name](layer, wanted, found)
    assert found is not None
    return found
