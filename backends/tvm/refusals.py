"""What TVM says when it refuses something, in one line."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def attempted(
    ask: Callable[[], T | None], at: str, failed: dict[str, str], kinds: tuple[type[Exception], ...]
) -> T | None:
    """What a rule makes of a kernel; None where it takes it not, or refuses it with an exception.

    Args:
        ask: asks the rule.
        at: the kernel and the rule.
        failed: where a refusal is noted.
        kinds: the exceptions that are refusals.
    """
    try:
        return ask()
    except kinds as error:
        failed[at] = last_line(error)
        return None


def first_line(error: Exception) -> str:
    """What an exception says, without the trace that TVM's runtime puts after it."""
    return _lines(error)[0]


def last_line(error: Exception) -> str:
    """What an exception says, without the trace or the program that TVM's compiler puts first."""
    return _lines(error)[-1]


def _lines(error: Exception) -> list[str]:
    return str(error).strip().splitlines() or [repr(error)]
