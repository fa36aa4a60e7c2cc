"""The one exception family of passel: what went wrong, where, and what to do about it."""


class PasselError(Exception):
    """Base of every error that passel raises on purpose."""


class InvalidModel(PasselError):
    """The model given cannot be read, exported or trusted (truncated file, NaN weights, ...)."""


class UnsupportedModel(InvalidModel):
    """The model is sound, but the runtime has no kernel for something in it."""


class InvalidInput(PasselError, ValueError):
    """An argument is wrong: an input's name, shape or dtype, a pass, a target, a path."""


class InvalidGraph(PasselError):
    """A graph broke its own grammar; names the pass that ran last. This is a bug in a pass."""


class ExportError(PasselError):
    """torch.export or the ONNX exporter refused the model."""


class BackendUnavailable(PasselError):
    """A runtime or execution provider that was asked for is not installed; says which extra."""


class VerificationError(PasselError):
    """The optimized model disagrees with the original; carries the guilty pass when known.

    Attributes:
        guilty: spec of the first pass after which outputs differ, or None for the lowering.
        output: name of the worst output.
        error: max |Δ| of that output, in the output's own unit.
        tolerance: the bound it had to meet.
    """

    def __init__(
        self, message: str, *, guilty: str | None, output: str, error: float, tolerance: float
    ) -> None:
        super().__init__(message)
        self.guilty = guilty
        self.output = output
        self.error = error
        self.tolerance = tolerance
