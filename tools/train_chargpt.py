"""Train the character-level GPT on a CPU and write its checkpoint, its texts and its perplexity.

    python -m passel.tools.train_chargpt

The text is every docstring of the standard library of the Python that runs this. The same
arguments, versions (Python's too) and thread count give the same files. See `train_digits`.
"""

import argparse
import ast
import importlib.util
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from ..models.chargpt import CHARACTERS, CHARGPT, CHECKPOINT, encode, perplexity
from ..models.gpt import GPT, GPTConfig
from .train_digits import record, write_atomically

HELD_OUT = ("difflib", "ipaddress", "json", "statistics", "threading")
"""Modules whose docstrings are the test text: about 100 kB."""

_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "__pycache__"}
_CALIBRATION_WINDOWS = 256
_BATCH = 16
_PEAK_LEARNING_RATE = 3e-3
_WARMUP = 0.1  # share of all steps


def standard_modules() -> list[str]:
    """Return the standard library's importable top-level modules but for the held-out ones."""
    return sorted(set(sys.stdlib_module_names) - set(HELD_OUT))


def corpus(modules: Iterable[str]) -> str:
    """Return the docstrings of the modules, a blank line after each, in the model's alphabet."""
    pieces = [piece for name in modules for path in sources(name) for piece in docstrings(path)]
    return "".join(f"{cleaned(piece)}\n\n" for piece in pieces)


def sources(module: str) -> list[Path]:
    """Return a module's Python files without its tests, in a fixed order; compiled ones have none.

    The module is found, not imported.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return []
    origin = Path(spec.origin)
    if not spec.submodule_search_locations:
        return [origin]
    found = sorted(origin.parent.rglob("*.py"))
    return [p for p in found if not _SKIPPED_FOLDERS & set(p.relative_to(origin.parent).parts)]


def docstrings(path: Path) -> Iterator[str]:
    """Yield the docstrings of a file's module, classes and functions."""
    for node in ast.walk(ast.parse(path.read_bytes(), filename=str(path))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found = ast.get_docstring(node)
            if found:
                yield found


def cleaned(text: str) -> str:
    """Return the text with whatever is not in the alphabet replaced by a question mark."""
    known = set(CHARACTERS)
    return "".join(character if character in known else "?" for character in text)


def calibration_sample(text: str, config: GPTConfig = CHARGPT) -> str:
    """Return pieces of one context each, cut from the text at even distances."""
    starts = range(0, len(text) - config.context, len(text) // _CALIBRATION_WINDOWS)
    return "".join(text[s : s + config.context] for s in starts[:_CALIBRATION_WINDOWS])


def train(config: GPTConfig, tokens: Tensor, steps: int, seed: int) -> GPT:
    """Return a GPT trained with AdamW, one-cycle learning rate and windows drawn at random."""
    torch.manual_seed(seed)
    model = GPT(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _PEAK_LEARNING_RATE, total_steps=steps, pct_start=_WARMUP
    )
    offsets = torch.arange(config.context + 1)
    start, loss = time.perf_counter(), 0.0
    for step in range(1, steps + 1):
        first = torch.randint(len(tokens) - config.context, (_BATCH, 1))
        loss += _step(model, optimizer, tokens[first + offsets])
        schedule.step()
        if step % 100 == 0 or step == steps:
            mean, loss = loss / ((step - 1) % 100 + 1), 0.0
            spent = time.perf_counter() - start
            print(f"step {step}/{steps} loss {mean:.4f} {spent:.0f} s", flush=True)
    return model.eval()


def _step(model: GPT, optimizer: torch.optim.Optimizer, windows: Tensor) -> float:
    """Take one optimizer step on windows (batch, context + 1) and return the loss before it."""
    loss = F.cross_entropy(model(windows[:, :-1]).mT, windows[:, 1:])
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def next_character_accuracy(model: GPT, windows: Tensor) -> float:
    """Return the share of characters of windows (count, context + 1) that the model guesses."""
    with torch.no_grad():
        guesses = torch.cat([model(part[:, :-1]).argmax(dim=-1) for part in windows.split(32)])
    return float((guesses == windows[:, 1:]).double().mean())


def main(arguments: Sequence[str] | None = None) -> None:
    """Collect the text, train, measure and write everything."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    learned, held_out = corpus(standard_modules()), corpus(HELD_OUT)
    print(f"{len(learned)} characters to learn, {len(held_out)} held out")
    model = train(CHARGPT, encode(learned), options.steps, options.seed)
    halved = {name: tensor.half() for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: tensor.float() for name, tensor in halved.items()})
    windows = encode(held_out).unfold(0, CHARGPT.context + 1, CHARGPT.context)
    entry = {
        "accuracy": round(next_character_accuracy(model, windows), 6),
        "perplexity": round(perplexity(model, windows), 6),
        "seed": options.seed,
        "steps": options.steps,
        "test_characters": windows[:, 1:].numel(),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    texts = {"test": held_out, "calibration": calibration_sample(learned)}
    for name, content in texts.items():
        write_atomically(options.out / f"{CHECKPOINT}_{name}.txt", content.encode("ascii"))
    write_atomically(options.out / f"{CHECKPOINT}.safetensors", save(halved))
    record(options.out / "accuracy.json", CHECKPOINT, entry)
    print(f"{CHECKPOINT}: perplexity {entry['perplexity']:.4f} a character on held-out modules")


def _parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(description="Train the character-level GPT.")
    parser.add_argument("--steps", type=int, default=3200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    default = Path(__file__).parent.parent / "models" / "checkpoints"
    parser.add_argument("--out", type=Path, default=default, help="folder (default: %(default)s)")
    return parser


if __name__ == "__main__":
    main()
