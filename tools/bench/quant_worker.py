"""One side of the quantization benchmark in a process of its own; `latency.Side` talks to it.

    python -m passel.tools.bench.quant_worker MODEL SIDE ROOT THREADS

It loads what the side's recipe built, writes its error on the held-out inputs beside it, then times
calls on demand. The peak of memory that it ends with is less what its imports take.
"""

import json
import sys
from importlib import import_module
from pathlib import Path

from ...backends.resident import resident_bytes
from .quant_error import fidelity
from .quant_run import MODULES, RUNTIMES, Loaded, Program
from .quant_work import Place, read_arrays
from .turns import serve


def main() -> None:
    """Serve turns until standard input ends."""
    model, side, root, threads = sys.argv[1:]
    place = Place(Path(root), model)
    built = place.built(side)
    for module in MODULES[built["runtime"]]:
        import_module(module)
    imports = resident_bytes()
    program = Program(model, side, place.side(side), built["config"], int(threads))
    loaded = RUNTIMES[built["runtime"]](program)
    _judge(loaded, place, side)
    call = loaded.bound(read_arrays(place.judged(0)))
    serve(call, imports)


def _judge(loaded: Loaded, place: Place, side: str) -> None:
    """Measure the error once; whoever rebuilds the side removes it."""
    path = place.error(side)
    if path.exists():
        return
    count = place.float_model()["judged"]
    pairs = (
        (loaded.run(read_arrays(place.judged(index))), read_arrays(place.expected(index)))
        for index in range(count)
    )
    path.write_text(json.dumps(fidelity(pairs).to_dict()), encoding="utf-8")


if __name__ == "__main__":
    main()
