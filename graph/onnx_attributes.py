"""The attributes of an ONNX node by name, with what stands for one that is left out."""

from typing import Any


class Attributes:
    """For what sees one ONNX node, which needs no ONNX library for it."""

    node: Any

    def has(self, name: str) -> bool:
        return name in self.node.attributes

    def attr_int(self, name: str, default: int) -> int:
        return int(self.node.attributes.get_int(name, default))

    def attr_float(self, name: str, default: float) -> float:
        return float(self.node.attributes.get_float(name, default))

    def attr_string(self, name: str, default: str) -> str:
        return str(self.node.attributes.get_string(name, default))

    def attr_ints(self, name: str) -> tuple[int, ...] | None:
        found = self.node.attributes.get_ints(name)
        return None if found is None else tuple(int(number) for number in found)
