"""What a graph is, as a hash: its text with names, and the bytes of its constants."""

import hashlib

import numpy as np

from ....graph import Graph
from ....graph.text import to_text


def graph_fingerprint(graph: Graph) -> str:
    """Equal for graphs that compute the same with the same names. Reads every weight once."""
    found = hashlib.sha256(to_text(graph, names=True).encode())
    for value in graph.constants():
        assert value.constant is not None
        array = np.ascontiguousarray(value.array())
        found.update(f"{array.dtype.name}{array.shape}".encode())
        found.update(array.reshape(-1).view(np.uint8).data)
        value.constant.release()
    return found.hexdigest()


def combined(*parts: str) -> str:
    """One hash of several texts, in their order."""
    found = hashlib.sha256()
    for part in parts:
        found.update(f"{len(part)}:{part}".encode())
    return found.hexdigest()
