"""The process of the tuner's candidates: `python -m passel.candidate FOLDER`.

The folder holds the model and what its results are compared with (`backends/tuning/subject.py`);
the orders come on standard input (`backends/tuning/serve.py`).
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from .backends.tuning.plan import Plan
from .backends.tuning.serve import die_with_parent, private_output, serve
from .backends.tuning.subject import Subject
from .capture import Captured, quiet
from .pipeline import Job, output_names
from .planned import Program, job_of, program, tune_for
from .signature import Signature
from .verify import compare, first_violation, worst_of


class Planned:
    """A plan, built on a subject."""

    def __init__(self, plan: Plan, subject: Subject) -> None:
        self.plan = plan
        self._subject = subject
        examples = subject.batches[0][0] if subject.real else ()
        self._job: Job = job_of(plan, max_error=subject.max_error, examples=examples)
        captured = _captured(plan, subject)
        tune_for(plan, captured, subject.target)
        self._program: Program = program(plan, self._job, captured, subject.target)
        self.fingerprint = self._program.fingerprint
        self._inputs = subject.inputs

    def call(self) -> object:
        """Run on the inputs that are timed."""
        return self._program.session.run_tensors(self._inputs)

    def verify(self) -> tuple[float, str]:
        """The worst relative error, and what is wrong.

        What is quantized is tried on the first inputs only, the user's own: random numbers say
        nothing of it.
        """
        job, names = self._job, output_names(self._program.original)
        lossy = bool(job.rtol is not None or job.unbounded)
        run = self._program.session.run_arrays
        errors = worst_of(
            [
                compare(names, expected, run(inputs), job.atol, job.rtol)
                for inputs, expected in (
                    self._subject.batches[:1] if lossy else self._subject.batches
                )
            ]
        )
        worst, broken = max((one.relative for one in errors), default=0.0), first_violation(errors)
        if broken is None:
            return worst, ""
        found = broken.detail or f"relative error {broken.relative:.3g}"
        return worst, f"output {broken.name!r} disagrees with the original: {found}"


def _captured(plan: Plan, subject: Subject) -> Captured:
    """The subject in the form that the plan's backend reads."""
    exported = None if plan.backend == "onnxruntime" else subject.exported()
    model = exported or subject.onnx
    assert model is not None
    signature = Signature([], [])
    return Captured("candidate", model, signature, subject.inputs if subject.real else None)


def main(arguments: Sequence[str]) -> None:
    """Serve orders until standard input ends."""
    die_with_parent()
    answers = private_output()
    subject = Subject.read(Path(arguments[0]))
    with torch.no_grad(), quiet():
        serve(lambda plan: Planned(plan, subject), sys.stdin, answers)


if __name__ == "__main__":
    main(sys.argv[1:])
