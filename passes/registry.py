"""The passes by name, the default pipeline, and how a request for passes is read."""

import ast
from collections.abc import Iterable, Sequence

from ..errors import InvalidInput
from .base import AnyPass, Pass
from .canonicalize import Canonicalize
from .compress import Compress
from .eliminate_dead_code import EliminateDeadCode
from .flatten_tokens import FlattenTokens
from .fold_affine import FoldAffine
from .fold_constants import FoldConstants
from .merge_linears import MergeLinears
from .prune_tokens import PruneTokens
from .push_tokens import PushTokens
from .quantize import Quantize
from .recenter import Recenter
from .rotate import Rotate

PASSES: dict[str, type[AnyPass]] = {
    kind.name: kind
    for kind in (
        Canonicalize,
        FoldConstants,
        FoldAffine,
        Recenter,
        Compress,
        Rotate,
        PushTokens,
        PruneTokens,
        MergeLinears,
        FlattenTokens,
        Quantize,
        EliminateDeadCode,
    )
}
"""Every pass by its name."""

DEFAULT: "tuple[AnyPass, ...]" = (
    EliminateDeadCode(),
    FoldConstants(),
    Canonicalize(),
    FoldAffine(),
    Canonicalize(),
    Recenter(),
    FoldConstants(),
    Canonicalize(),
    PushTokens(),
    FoldConstants(),
    Canonicalize(),
    EliminateDeadCode(),
)
"""All exact passes that pay on every target, in an order in which each finds what it needs."""

Request = str | AnyPass | Sequence["str | AnyPass"]


def available() -> dict[str, str]:
    """The passes by name, with one line each."""
    return {name: kind().summary for name, kind in PASSES.items()}


def resolve(request: "Request") -> "list[AnyPass]":
    """Read "default", "none", a spec such as "compress(form='paper')", a pass, or a list of those.

    A pass that asks for others before it gets them.

    Raises:
        InvalidInput: a name or a parameter is unknown.
    """
    listed = _resolve(request)
    return [each for one in listed for each in (*one.before(), one)]


def _resolve(request: "Request") -> "list[AnyPass]":
    if isinstance(request, str | Pass) or not isinstance(request, Iterable):
        request = [request]
    found: list[AnyPass] = []
    for entry in request:
        if isinstance(entry, Pass):
            found.append(entry)
        elif entry == "default":
            found.extend(DEFAULT)
        elif not isinstance(entry, str):
            kind = type(entry).__name__
            raise InvalidInput(f"passes: expected names, specs or pass objects, got {kind}")
        elif entry != "none":
            found.append(parse(entry))
    return found


def parse(spec: str) -> "AnyPass":
    """A pass from its spec; the inverse of `Pass.spec`."""
    name, _, rest = spec.strip().partition("(")
    name = name.strip().replace("_", "-")
    if name not in PASSES:
        known = ", ".join(["default", "none", *PASSES])
        raise InvalidInput(f"passes: expected one of {known}, got {spec!r}")
    try:
        call = ast.parse(f"f({rest}" if rest else "f()", mode="eval").body
        assert isinstance(call, ast.Call)
        given = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        if call.args:
            raise ValueError("expected keyword parameters only")
        return PASSES[name](**given)
    except (SyntaxError, TypeError, ValueError) as error:
        raise InvalidInput(f"passes: cannot read {spec!r}: {error}") from error
