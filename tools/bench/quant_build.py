"""Build the float model's files or one side's, in a process of its own.

    python -m passel.tools.bench.quant_build MODEL SIDE ROOT THREADS

Quantizers take memory, leave threads behind and sometimes crash; none of that reaches the others.
"""

import inspect
import sys
import time
from functools import partial
from pathlib import Path

from ...backends.hardware import version_of
from ...errors import BackendUnavailable
from .quant_recipes import PEERS, Job, Recipe
from .quant_work import FLOAT, FLOAT_SOURCES, HERE, Place, key, write_arrays

UNAVAILABLE = 3
"""Exit status of a side that this installation cannot have."""


def main() -> int:
    """Build if what is there is not current."""
    model, side, root, threads = sys.argv[1:]
    place = Place(Path(root), model)
    try:
        if side == FLOAT:
            make_float(place)
        else:
            make_side(place, side, int(threads))
    except BackendUnavailable as error:
        print(error, file=sys.stderr)
        return UNAVAILABLE
    return 0


def make_float(place: Place) -> None:
    """Export the float model; write the held-out inputs and its outputs on them."""
    import torch

    from ...capture import quiet
    from .quant_models import arrays, case

    now = key(
        (HERE / name for name in FLOAT_SOURCES), version_of("torch"), version_of("transformers")
    )
    if place.float_model().get("key") == now:
        return
    found = case(place.model)
    record = {"key": now, "judged": found.judged, "trained": found.trained, "tokens": found.tokens}
    with place.making(FLOAT, record) as folder, torch.no_grad():
        for index, inputs in enumerate(found.judged_inputs()):
            outputs = found.module(*inputs)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            write_arrays(folder / place.judged(index).name, arrays(inputs))
            write_arrays(folder / place.expected(index).name, arrays(outputs))
        with quiet():
            exported = torch.onnx.export(found.module, found.sample(0), dynamo=True, verbose=False)
        assert exported is not None
        exported.save(folder / "model.onnx", external_data=False)


def make_side(place: Place, side: str, threads: int) -> None:
    """Run the side's recipe."""
    from .quant_sides import SIDES

    recipe = SIDES[side]
    if recipe.missing:
        raise BackendUnavailable(f"not installed: pip install passel[{PEERS}]")
    now = side_key(place, side, recipe, threads)
    if place.built(side).get("key") == now:
        return
    from .quant_models import case

    record: dict[str, object] = {"key": now, "runtime": recipe.runtime, "about": recipe.about}
    with place.making(side, record) as folder:
        start = time.perf_counter()
        source = place.side(FLOAT) / "model.onnx"
        built = recipe.build(Job(case(place.model), source, folder, threads))
        record |= {
            "seconds": time.perf_counter() - start,
            "notes": list(built.notes),
            "config": built.config,
        }


def side_key(place: Place, side: str, recipe: Recipe, threads: int) -> str:
    """What the side's files depend on."""
    build = recipe.build.func if isinstance(recipe.build, partial) else recipe.build
    sources = [Path(inspect.getfile(build))]
    if recipe.runtime == "passel":
        package = HERE.parent.parent
        for folder in ("", "graph", "passes", "backends"):
            sources += (package / folder).glob("*.py" if not folder else "**/*.py")
    packages = ("onnxruntime", *recipe.packages)
    versions = {name: version_of(name) for name in packages}
    return key(sources, side, versions, place.float_model()["key"], threads)


if __name__ == "__main__":
    sys.exit(main())
