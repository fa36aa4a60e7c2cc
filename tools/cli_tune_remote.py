"""`passel tune --rpc`: kernels measured on the devices of a TVM RPC tracker, a library for them."""

from typing import TYPE_CHECKING

from ..backends.target import Target
from ..backends.tuning.standing import Limits
from ..capture import capture
from ..errors import InvalidInput
from ..graph.onnx_io import read
from ..lower_remote import tuned_remotely
from ..passes.registry import resolve
from ..pipeline import Job
from .cli_inputs import given_inputs
from .cli_options import split_passes
from .cli_screen import Screen
from .cli_tune_run import check_paths

if TYPE_CHECKING:
    from ..backends.tvm.metaschedule import Step
    from .cli_tune import Run

UNFIT = ("trials", "max_error", "storage", "plot")
"""Options of the search on this machine."""


def carry_out(run: "Run", screen: Screen) -> None:
    """Tune, save, print.

    Raises:
        InvalidInput: options that do not go together; nothing is written then.
        PasselError: no tracker answers, or the model has no lowering.
    """
    assert run.rpc is not None
    if unfit := [name for name in UNFIT if getattr(run, name) is not None]:
        raise InvalidInput(f"--rpc: tunes kernels only; leave out --{unfit[0].replace('_', '-')}")
    if run.output is None:
        raise InvalidInput("--rpc: expected --output, the folder to copy to the device")
    check_paths(run)
    given = given_inputs(run.input_files, run.inputs, run.input_shape, run.seed)
    model = read(run.model)
    examples = given.of(model) if given.are_real or given.shapes else None
    captured = capture(run.model, examples, None)
    job = Job.of(resolve(split_passes(run.passes)), (), None, threads=run.threads)
    target, seconds = Target.parse(run.target), Limits.of(run.budget, None).seconds or 0.0
    with screen.working() as working:

        def tell(step: "Step") -> None:
            working.say(
                f"{step.kernel}: {step.microseconds:.0f} µs, untuned {step.before:.0f}; "
                f"{step.trials} measurements, {step.left:.0f} s left"
            )

        tuned = tuned_remotely(job, captured, target, seconds, run.rpc, progress=tell)
    tuned.save(run.output)
    if run.report is not None:
        tuned.report.to_json(run.report)
    screen.print(f"saved to {run.output}, for {target}", *tuned.report.notes)
