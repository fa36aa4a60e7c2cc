"""The command line `passel`: how its arguments are read, and what becomes of errors.

The commands are in cli_commands.py; the work of each is in a module of its own, loaded late.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import typer

from .. import __version__
from ..errors import PasselError, VerificationError
from . import cli_db, cli_quantize, cli_target, cli_tune  # noqa: F401  (each adds its commands)
from .cli_commands import COMMANDS, DISAGREES, app
from .cli_screen import quiet_libraries

OK, BAD_INPUT, BUG, INTERRUPTED, BROKEN_PIPE = 0, 2, 3, 130, 141
"""Exit statuses, besides `DISAGREES`."""
GLOBAL = ("--quiet", "-q", "--debug", "--version")
"""Options that may stand anywhere."""


def arranged(argv: Sequence[str]) -> list[str]:
    """The arguments as typer wants them: global options first, and the command named.

    `passel in.onnx out.onnx` means `passel optimize in.onnx out.onnx`: so does everything that
    begins with a path or with an option of that command. What follows `bench` is its own affair.
    """
    if "bench" in argv[:1]:
        return list(argv)
    shared = [word for word in argv if word in GLOBAL]
    rest = [word for word in argv if word not in GLOBAL]
    first = rest[0] if rest else ""
    if first in COMMANDS or first in ("", "-h", "--help"):
        return shared + rest
    if first.startswith("-") or _looks_like_path(first):
        return [*shared, "optimize", *rest]
    return shared + rest


def _looks_like_path(word: str) -> bool:
    return bool(Path(word).suffix) or "/" in word or os.sep in word or Path(word).exists()


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    given = arranged(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in given
    if "--version" in given and "bench" not in given[:1]:
        print(f"passel {__version__}")
        return OK
    try:
        with quiet_libraries(debug):
            status = app(given, prog_name="passel", standalone_mode=False) or OK
            sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except BrokenPipeError:
        # Else Python's own flush at the exit fails once more, aloud.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = BROKEN_PIPE
    except SystemExit as leaving:  # rich leaves so when nobody reads its output
        broken = isinstance(leaving.__context__, BrokenPipeError)
        status = BROKEN_PIPE if broken else _status(leaving)
    except Exception as error:
        status = failed(error, debug)
    if status == INTERRUPTED:
        print("passel: interrupted", file=sys.stderr)
    return status


def _status(leaving: SystemExit) -> int:
    return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)


def failed(error: Exception, debug: bool) -> int:
    """Say on stderr what went wrong, in one line where it is the caller's to mend."""
    if debug:
        traceback.print_exception(error)
    if isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "passel"
        if message := error.format_message():  # none where no argument at all asked for help
            print(f"passel: {message}\nTry `{path} --help`.", file=sys.stderr)
        return BAD_INPUT
    if isinstance(error, VerificationError):
        print(f"passel: {_in_options(str(error))}", file=sys.stderr)
        return DISAGREES
    if isinstance(error, PasselError | OSError):
        print(f"passel: {error}", file=sys.stderr)
        return BAD_INPUT
    hint = "" if debug else " (--debug shows where)"
    print(f"passel: bug: {type(error).__name__}: {error}{hint}", file=sys.stderr)
    return BUG


def _in_options(message: str) -> str:
    """Advice that names arguments of the Python functions, in terms of the command line."""
    for argument in ("exclude", "passes", "rtol", "atol"):
        message = message.replace(f"{argument}=", f"--{argument}")
    return message


if __name__ == "__main__":
    sys.exit(main())
