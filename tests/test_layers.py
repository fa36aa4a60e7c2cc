"""Which folder may import which, read from the source, and what importing the passes loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FRAMEWORKS = ("torch", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "tvm")
LOW = ("errors", "progress", "graph", "passes", "signature", "verify", "backends")
FRONT = {path.stem for path in ROOT.glob("*.py")} - {*LOW, "__init__", "__main__"}
"""capture, pipeline, compiler and what they are cut into: they may import each other."""
ALLOWED = {
    "errors": set(),
    "progress": set(),
    "graph": {"errors"},
    "passes": {"errors", "graph", "progress"},
    "signature": {"errors", "graph", "passes"},
    "verify": {"errors", "graph", "passes"},
    "backends": {"errors", "graph", "passes", "signature", "verify"},
    **{name: {*LOW, *FRONT} for name in sorted(FRONT)},
    "models": set(),
    "tools": {*LOW, *FRONT, "models"},
    "__main__": {"tools"},
}
# Entry points that a framework calls, which hand straight over to the compiler when they run.
LATE = {"backends/dynamo.py", "backends/onnx_ir_pass.py"}


def sources(layer):
    path = ROOT / f"{layer}.py"
    return [path] if path.exists() else sorted((ROOT / layer).rglob("*.py"))


def imported_layers(path):
    """The top-level names of passel that a file imports, with the line of each."""
    package = ("passel", *path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) + 1 - node.level]) if node.level else []
            stem = base + (node.module.split(".") if node.module else [])
            found = [[*stem, alias.name] for alias in node.names]
        else:
            continue
        for parts in found:
            if parts[0] == "passel" and len(parts) > 1:
                yield parts[1], node.lineno


@pytest.mark.parametrize("layer", ALLOWED)
def test_imports_point_one_way(layer):
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(layer)
        if str(path.relative_to(ROOT)) not in LATE
        for name, line in imported_layers(path)
        if name not in ALLOWED[layer] | {layer, "__version__"}
    ]
    assert wrong == []


def test_every_layer_is_known():
    folders = {p.name for p in ROOT.iterdir() if (p / "__init__.py").exists()}
    files = {p.stem for p in ROOT.glob("*.py")} - {"__init__"}
    assert folders | files <= set(ALLOWED)
    assert {"capture", "pipeline", "compiler"} <= FRONT


def test_bare_folder_names_are_not_imported():
    """`import passes` would make a second copy of every class."""
    bare = {"graph", "passes", "backends", "models", "tools"}
    for layer in ALLOWED:
        for path in sources(layer):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and not node.level:
                    names = [node.module or ""]
                assert not {name.split(".")[0] for name in names} & bare, path


@pytest.mark.parametrize("module", ["passel", "passel.passes", "passel.graph", "passel.errors"])
def test_importing_loads_no_framework(module):
    code = f"import sys, {module}; print([n for n in {FRAMEWORKS} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
