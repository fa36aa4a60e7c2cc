"""What every side of the benchmark does in its process: time calls when the parent asks.

The parent writes a number of calls per line; the answer is one JSON list of seconds. It imports no
runtime, as the sides' memory and threads are to be their own.
"""

import json
import sys
from collections.abc import Callable

from ...backends.measure import settle, timed
from ...backends.resident import peak_bytes


def serve(call: Callable[[], object], imports: int = 0) -> None:
    """Warm up, serve turns until standard input ends, then tell the peak of memory.

    Args:
        call: what is timed.
        imports: bytes that are left out of the peak.
    """
    timed(call, 3)
    _answer("ready")
    for line in sys.stdin:
        _answer(timed(call, int(line)))
    print(json.dumps(peak_bytes() - imports), flush=True)


def _answer(what: object) -> None:
    """Tell the parent when this process has become idle: another is timed next."""
    settle()
    print(json.dumps(what), flush=True)
