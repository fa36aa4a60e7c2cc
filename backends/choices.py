"""Choice points: what lowering leaves open, because only a measurement on the machine can tell."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import onnxruntime as ort

LEVELS = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


@dataclass(frozen=True)
class Choice:
    """One open decision.

    Attributes:
        name: what is decided, e.g. "attention".
        options: its possible values, the cost table's favourite first.
    """

    name: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class SessionChoice:
    """Session options of ONNX Runtime.

    Attributes:
        threads: intra-op threads; 0 lets ONNX Runtime use every physical core.
        level: graph optimisation level, a key of LEVELS.
        spinning: whether idle threads spin before they sleep.
        disabled_optimizers: ONNX Runtime optimizers to leave out, by name.
        plain: compute quantized values as they are written: in float, from weights that are
            dequantized once. Otherwise ONNX Runtime may also quantize float activations.
        affinities: processors (from 1) of every thread but the caller's own, as ONNX Runtime spells
            them: "2;3" for three threads; "" leaves it to ONNX Runtime.
    """

    threads: int = 0
    level: str = "all"
    spinning: bool = True
    disabled_optimizers: tuple[str, ...] = ()
    plain: bool = False
    affinities: str = ""

    def session_options(self) -> ort.SessionOptions:
        """As ONNX Runtime takes them (`disabled_optimizers` goes to the session itself)."""
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self.threads
        options.graph_optimization_level = LEVELS[self.level]
        if self.plain:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        if self.affinities:
            options.add_session_config_entry("session.intra_op_thread_affinities", self.affinities)
        if not self.spinning:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        return cls(**{**plain, "disabled_optimizers": tuple(plain["disabled_optimizers"])})
