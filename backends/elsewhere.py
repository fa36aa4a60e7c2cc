"""What a compiled model holds instead of a session where this machine cannot run it."""

from collections.abc import Sequence
from typing import NoReturn

import numpy as np
import torch

from ..errors import BackendUnavailable


class Elsewhere:
    """Stands for the session of a model that this machine cannot run; calls say why."""

    def __init__(self, why: str) -> None:
        self.why = why

    def run_arrays(self, arrays: Sequence[np.ndarray]) -> NoReturn:
        """Raise `BackendUnavailable`."""
        raise BackendUnavailable(self.why)

    def run_tensors(self, tensors: Sequence[torch.Tensor]) -> NoReturn:
        """Raise `BackendUnavailable`."""
        raise BackendUnavailable(self.why)
