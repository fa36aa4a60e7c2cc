"""Compute products in few bits: quantize weights, and activations around them.

Rewrite:
    y = x·Wᵀ + b   ->   y = dq(q(x))·dq(codes)ᵀ + b
with q and dq as Quantize and Dequantize (standard Q/DQ), x quantized once for all its readers; only
dq(codes) where activations stay float. A runtime then multiplies the codes.

Why: with scale s, q(x) = clip(round(x/s) + z) is off by at most s/2 inside its range, and a product
of 8-bit integers takes a quarter of the memory traffic of float32 and, with dot-product
instructions, a quarter of the operations. `scheme` says which formats (quantization/schemes.py),
`weights` how weights are rounded ("awq+mse+gptq": quantization/rounding/ and equalize/),
`calibration` what data ranges and moments come from, `placement` which products are quantized at
all (quantization/place.py).
Exactness: approximate; the report gives the error by output and by layer.
Legality: the weight is constant, finite and float; a model that holds quantized values already is
left alone.
Effect: on two AVX-512 cores (Zen 4) ViT-S/16 takes 18.5 ms in int8-dynamic, 53.5 ms in float;
MiniLM at 128 tokens 7.2 ms and 18.7 ms, with a quarter of the weights' bytes (`passel bench
--quant`, beside ONNX Runtime's own quantizers, OpenVINO and torchao). Some products are slower in 8
bits than in float: those stay float, and the report says so.
References: Jacob et al. 2018, arXiv:1712.05877; Nagel et al. 2021, arXiv:2106.08295; the rounding
algorithms name theirs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from ..graph import Graph
from .base import AnyPass, Context, Exactness, Pass, Refusal
from .patterns import Pattern
from .quantization.budget import Budget
from .quantization.calibration.observers import observer
from .quantization.candidates import DEFAULT_KINDS, KINDS, SPELLINGS
from .quantization.equalized import EQUALIZERS, EqualizeSite
from .quantization.place import check_placement
from .quantization.rounding import stage_of
from .quantization.schemes import Scheme, adapted, scheme_named
from .quantization.settle import settle
from .quantization.sites import Left, Product
from .quantization.work import Work

ROTATION = "hadamard"
LEARNED = ("gptq", "adaround", "flexround", "ptq161")
"""Stages that are not worth their time without data."""

Site = Left | Product | EqualizeSite


@dataclass(frozen=True)
class Quantize(Pass[Site]):
    """Quantize a model; see the module docstring.

    Attributes:
        scheme: "int8-dynamic", "int8-per-token", "int8", "int8-mixed", "w8", "w4", "w4a8", "fp8",
            "fp8-e5m2", "w4-fp", "w2", "ternary", "binary", "partial-binary"; or "W8A8", ...
        weights: how weights are rounded, names joined by "+": first any of awq, smooth, hadamard,
            then what chooses scales (rtn, mse, ...), codes (gptq, adaround, flexround) and
            corrections (lorc); "" for the scheme's own.
        calibration: what ranges and moments come from: samples in an iterable, a DataLoader, a
            function, an .npz file or a folder of them. Static schemes need it.
        placement: "auto" (rules, or measurements where the caller measures), "all", "measured", or
            pairs (pattern, form) with form "static", "dynamic", "weight" or "float".
        calibrate_method: "minmax", "moving-average", "percentile", "entropy" or "mse".
        calibration_samples: how many samples to use, 0 for all; "el2n" or ("el2n", n) picks those
            that tell most.
        calibration_cache_path: a file to keep ranges in.
        nodes_to_exclude: patterns of ops to leave in float; each has to match something.
        op_types_to_quantize: of "Linear" (or "MatMul", "Gemm"), "Conv", "Embedding" ("Gather").
        per_channel: a scale per result channel, or one per tensor.
        block_size, group_size: weights that share a scale, 16 to 256; two names for one thing.
        symmetric: whether zero points of weights are 0.
        reduce_range: weights in 7 bits, for processors whose 8-bit dot product saturates.
        budget: "snr>=30" (dB at the worst output), "error<=0.02" (relative), "size<=12MB": the most
            sensitive products get higher precision until it is met, whatever placement says;
            joined by ",", all hold.
        sensitivity: measure and report what each product alone does to the worst output.
        work_dir: a folder to keep the state of long runs in, to go on from.
    """

    name: ClassVar[str] = "quantize"
    exactness: ClassVar[Exactness] = Exactness.APPROXIMATE
    once: ClassVar[bool] = True

    scheme: str = "int8-dynamic"
    weights: str = ""
    calibration: object = field(default=None, compare=False)
    placement: str | tuple[tuple[str, str], ...] = "auto"
    calibrate_method: str = "minmax"
    calibration_samples: int | str | tuple[str, int] = 0
    calibration_cache_path: str = ""
    nodes_to_exclude: tuple[str, ...] = ()
    op_types_to_quantize: tuple[str, ...] = DEFAULT_KINDS
    per_channel: bool | None = None
    block_size: int | None = None
    group_size: int | None = None
    symmetric: bool | None = None
    reduce_range: bool = False
    budget: str = ""
    sensitivity: bool = False
    work_dir: str = ""

    def __post_init__(self) -> None:
        """Check the parameters."""
        self._settle("placement", _tuples(self.placement))
        self._settle("nodes_to_exclude", _names(self.nodes_to_exclude))
        kinds = tuple(SPELLINGS.get(one, one) for one in _names(self.op_types_to_quantize))
        self._settle("op_types_to_quantize", tuple(dict.fromkeys(kinds)))
        self._settle("block_size", _block(self.block_size, self.group_size))
        self._settle("group_size", None)
        unknown = [kind for kind in self.op_types_to_quantize if kind not in KINDS]
        if unknown:
            known = ", ".join([*KINDS, *SPELLINGS])
            raise ValueError(f"expected op_types_to_quantize of {known}, got {unknown}")
        check_placement(self.placement)
        Budget.of(self.budget)
        observer(self.calibrate_method)
        for pattern in self.nodes_to_exclude:
            Pattern(pattern)
        self.resolved  # noqa: B018  (raises for an unknown scheme)
        for stage in self.stages:
            stage_of(stage)

    def _settle(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @property
    def resolved(self) -> Scheme:
        """The scheme with the caller's granularity."""
        return adapted(
            scheme_named(self.scheme),
            block_size=self.block_size,
            per_channel=self.per_channel,
            symmetric=self.symmetric,
            reduce_range=self.reduce_range,
        )

    @property
    def opset(self) -> int:
        """The first ONNX opset that can say the scheme."""
        return self.resolved.opset

    @property
    def named(self) -> tuple[str, ...]:
        """The names in `weights`."""
        return tuple(name.strip() for name in self.weights.split("+") if name.strip())

    @property
    def stages(self) -> tuple[str, ...]:
        """What rounds the weights, in order."""
        asked = tuple(name for name in self.named if name not in (*EQUALIZERS, ROTATION))
        scheme = self.resolved
        return (*scheme.stages, *asked) if scheme.fixed else asked or scheme.stages

    @property
    def equalizer(self) -> str:
        """The equalization asked for: awq, smooth or nothing."""
        return next((name for name in self.named if name in EQUALIZERS), "")

    def settled(self, graph: Graph, context: Context) -> "Quantize":
        return settle(self, graph, context)

    @property
    def notes(self) -> list[str]:
        """What the user should know of a run: the caller's own list, once settled."""
        found: list[str] = self.__dict__.setdefault("_notes", [])
        return found

    @property
    def needs_data(self) -> bool:
        """Whether there is something to do that calibration data decides."""
        return self.resolved.is_static or self.gathers

    @property
    def gathers(self) -> bool:
        """Whether data decides more than ranges."""
        learned = [stage for stage in self.stages if stage.partition(":")[0] in LEARNED]
        return bool(self.equalizer or learned or self.budget or self.sensitivity)

    def before(self) -> tuple[AnyPass, ...]:
        """What shows ONNX's products as Linears; a rotation, if one is asked for."""
        from .registry import DEFAULT, PASSES
        from .rotate import Rotate

        if ROTATION in self.named:
            return (*DEFAULT, Rotate(always=True))
        return (PASSES["fold-constants"](), PASSES["canonicalize"]())

    @property
    def spec(self) -> str:
        """As in `Pass`, without data that has no text."""
        if isinstance(self.calibration, str) or self.calibration is None:
            return super().spec
        from dataclasses import replace

        return replace(self, calibration=None).spec

    def match(self, graph: Graph) -> Iterator[Site]:
        if not any(True for _ in graph.ops):
            return iter(())
        return Work(self, graph).sites()

    def refuse(self, graph: Graph, site: Site) -> Refusal | None:
        return site.refusal

    def rewrite(self, graph: Graph, site: Site) -> None:
        assert not isinstance(site, Left)
        site.apply(graph)


def _names(given: object) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)  # type: ignore[arg-type]


def _tuples(given: object) -> object:
    if isinstance(given, str):
        return given
    pairs = given.items() if isinstance(given, dict) else given
    return tuple(tuple(pair) for pair in pairs)  # type: ignore[attr-defined]


def _block(block: int | None, group: int | None) -> int | None:
    if block is not None and group is not None and block != group:
        raise ValueError(f"expected one of block_size and group_size, got {block} and {group}")
    size = block if block is not None else group
    if size is not None and not (isinstance(size, int) and (size in (0, -1) or size >= 1)):
        raise ValueError(f"expected a block_size of at least 1, or 0 for none, got {size!r}")
    return size
