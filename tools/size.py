"""Print the files and functions that are too long; fail on one that nobody has allowed.

Limits: 250 lines a file, 50 a function (decorators not counted), in graph/, passes/, backends/,
tools/ and compiler.py. Exceptions stand in pyproject.toml under [tool.passel.size], each with the
length it may reach, so what is too long today cannot grow: "graph/graph.py" = 260 for a file,
"graph/graph.py::Graph.replace" = 55 for a function.

Standard library only, and run as a script, so that it works before anything is installed.
"""

import ast
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACES = ("graph", "passes", "backends", "tools", "compiler.py")
FILE_LIMIT = 250
FUNCTION_LIMIT = 50


@dataclass(frozen=True)
class Excess:
    """A file or function longer than its limit; `key` is its name in the allow-list."""

    key: str
    where: str
    lines: int
    limit: int


def main() -> int:
    """Print every excess and return 1 if one of them is not allowed, else 0."""
    allowed = allow_list(ROOT / "pyproject.toml")
    found = [excess for path in sources(ROOT) for excess in excesses(path, ROOT)]
    refused = [excess for excess in found if excess.lines > allowed.get(excess.key, 0)]
    for excess in found:
        print(described(excess, allowed))
    for key in sorted(allowed.keys() - {excess.key for excess in found}):
        print(f"{key}: within its limit or gone; drop it from [tool.passel.size]")
    if refused:
        print(f"{len(refused)} too long and not allowed in [tool.passel.size]", file=sys.stderr)
    return 1 if refused else 0


def allow_list(pyproject: Path) -> dict[str, int]:
    """Return the allowed length of each listed file and function."""
    tool = tomllib.loads(pyproject.read_text(encoding="utf-8")).get("tool", {})
    return dict(tool.get("passel", {}).get("size", {}))


def sources(root: Path) -> Iterator[Path]:
    """Yield the checked Python files, in a fixed order."""
    for place in (root / name for name in PLACES):
        if place.is_dir():
            yield from sorted(place.rglob("*.py"))
        elif place.exists():
            yield place


def excesses(path: Path, root: Path) -> Iterator[Excess]:
    """Yield what is too long in one file: the file first, then its functions."""
    name = path.relative_to(root).as_posix()
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    if lines > FILE_LIMIT:
        yield Excess(name, name, lines, FILE_LIMIT)
    for qualified, node in functions(ast.parse(text, filename=name)):
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > FUNCTION_LIMIT:
            key = f"{name}::{qualified}"
            yield Excess(key, f"{name}:{node.lineno}: {qualified}", lines, FUNCTION_LIMIT)


def functions(
    node: ast.AST, prefix: str = ""
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yield every function under `node`, nested ones too, with its qualified name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name, child
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from functions(child, f"{prefix}{child.name}.")
        else:
            yield from functions(child, prefix)


def described(excess: Excess, allowed: Mapping[str, int]) -> str:
    """Return the printed line of one excess."""
    line = f"{excess.where}: {excess.lines} lines (limit {excess.limit}"
    return line + (f", allowed {allowed[excess.key]})" if excess.key in allowed else ")")


if __name__ == "__main__":
    sys.exit(main())
