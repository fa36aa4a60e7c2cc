"""The passes: each a frozen value that edits a graph. Importing this loads no framework."""

from .base import Exactness, Pass, Refusal
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
from .registry import DEFAULT, PASSES, available, parse, resolve
from .report import Report
from .rotate import Rotate

__all__ = [
    "DEFAULT",
    "PASSES",
    "Canonicalize",
    "Compress",
    "EliminateDeadCode",
    "Exactness",
    "FlattenTokens",
    "FoldAffine",
    "FoldConstants",
    "MergeLinears",
    "Pass",
    "PruneTokens",
    "PushTokens",
    "Quantize",
    "Recenter",
    "Refusal",
    "Report",
    "Rotate",
    "available",
    "parse",
    "resolve",
]
