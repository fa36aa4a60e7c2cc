"""Weight rounding by named, composable algorithms.

A stage takes the layer, the format asked for and what the stage before made of the weight (None at
first), and gives a better one: `mse` chooses scales, `gptq` then chooses the codes at those scales,
`lorc` adds a correction.

A name may carry a whole number, `lorc:16`, for stages that take one as keyword `parameter`: the
rank there, of `pow2-group` the rows in a compute group, of `codebook` the clusters of rows, of
`nupes` the rounds of clipping. What it means stands in the stage's docstring.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial

from ..layer import LayerData
from ..rounded import Format, Rounded

Stage = Callable[[LayerData, Format, Rounded | None], Rounded]
"""One algorithm; pure and deterministic."""


def round_weight(layer: LayerData, wanted: Format, names: Sequence[str]) -> Rounded:
    """Apply the named algorithms in order; `names` empty means round to nearest.

    Raises:
        ValueError: an unknown name, a parameter that is no whole number or that the stage does not
            take, or stages that do not go together.
    """
    stages = [stage_of(name) for name in names or ("rtn",)]
    found: Rounded | None = None
    for stage in stages:
        found = stage(layer, wanted, found)
    assert found is not None
    return found


def stage_of(text: str) -> Stage:
    """The stage of "name" or "name:number".

    Raises:
        ValueError: as `round_weight`.
    """
    from .registry import STAGES

    name, colon, number = text.partition(":")
    if name not in STAGES:
        raise ValueError(f"expected weights in {tuple(STAGES)}, got {text!r}")
    stage = STAGES[name]
    if not colon:
        return stage
    if not (number.isascii() and number.isdigit()):
        raise ValueError(f"expected a whole number after the colon, as lorc:16, got {text!r}")
    if "parameter" not in inspect.signature(stage).parameters:
        raise ValueError(f"expected {name!r} without a number, which it does not take: {text!r}")
    bound: Stage = partial(stage, parameter=int(number))  # type: ignore[call-arg]
    return bound
