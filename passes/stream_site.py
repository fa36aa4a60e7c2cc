"""The site of the passes that give a residual stream a new basis: recenter, compress, rotate."""

from dataclasses import dataclass, field

from ..graph import Op
from .basis import Tables
from .consumers import Consumer
from .streams import Stream


@dataclass(frozen=True)
class StreamSite:
    """One residual stream.

    Attributes:
        stream: where it begins and ends.
        consumers: what reads its norms, where their weights take the new basis too.
        tables: the constants that streams before it have brought into their basis already.
    """

    stream: Stream
    consumers: tuple[Consumer, ...] = ()
    tables: Tables = field(default_factory=dict)

    @property
    def anchor(self) -> Op:
        return self.stream.readers[0]

    @property
    def touched(self) -> tuple[Op, ...]:
        linears = [linear for reader in self.consumers for linear in reader.linears]
        scalings = [reader.scaling for reader in self.consumers if reader.scaling is not None]
        return (*self.stream.readers, *self.stream.edited, *linears, *scalings)
