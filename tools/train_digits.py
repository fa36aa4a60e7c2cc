"""Train one digits ViT on a CPU and write its checkpoint and its test accuracy.

    python -m passel.tools.train_digits --norm unified --norm-position post
    python -m passel.tools.train_digits --mod 0.5   # every other block: half the patches

The same arguments, versions and thread count give the same file. Files are written beside their
target and renamed, so an interrupted run leaves the previous ones whole.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from ..models.digits import DigitsSplit, accuracy, checkpoint_name, digits_config, load_digits_split
from ..models.mod import MoDViT, Routing
from ..models.norms import NORM_KINDS
from ..models.transformer import NORM_POSITIONS
from ..models.vit import ViT, ViTConfig

_BATCH = 64
_PEAK_LEARNING_RATE = 4e-3
_WARMUP = 0.1  # share of all steps
_BLANK = -1.0  # pixel value of empty paper


def train(
    config: ViTConfig, split: DigitsSplit, epochs: int, seed: int, routing: Routing | None = None
) -> ViT:
    """Return a ViT trained with AdamW, one-cycle learning rate and one-pixel shifts.

    With `routing` it is a MoDViT.
    """
    torch.manual_seed(seed)
    model = (ViT(config) if routing is None else MoDViT(config, routing)).train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    steps = len(split.x_train) // _BATCH * epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _PEAK_LEARNING_RATE, total_steps=steps, pct_start=_WARMUP
    )
    for epoch in range(epochs):
        start = time.perf_counter()
        loss = 0.0
        # The last, short batch is dropped: its moments would be noisier than the others'.
        for chosen in torch.randperm(len(split.x_train)).split(_BATCH)[: steps // epochs]:
            loss = _step(model, optimizer, shifted(split.x_train[chosen]), split.y_train[chosen])
            schedule.step()
        print(f"epoch {epoch + 1}/{epochs} loss {loss:.4f} {time.perf_counter() - start:.1f} s")
    return model.eval()


def _step(model: ViT, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> float:
    """Take one optimizer step and return the loss before it."""
    loss = F.cross_entropy(model(images), labels, label_smoothing=0.1)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def shifted(images: Tensor) -> Tensor:
    """Move each image of (count, 1, h, w) by -1, 0 or 1 pixel along both axes, at random."""
    count, _, height, width = images.shape
    padded = F.pad(images, (1, 1, 1, 1), value=_BLANK).squeeze(1)
    rows = torch.randint(3, (count, 1, 1)) + torch.arange(height).view(1, -1, 1)
    columns = torch.randint(3, (count, 1, 1)) + torch.arange(width).view(1, 1, -1)
    return padded[torch.arange(count).view(-1, 1, 1), rows, columns].unsqueeze(1)


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` beside `path` and rename it there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def record(path: Path, name: str, entry: dict[str, float]) -> None:
    """Add or replace one model's entry in the JSON file of accuracies."""
    entries = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    entries[name] = entry
    write_atomically(path, (json.dumps(entries, indent=2, sort_keys=True) + "\n").encode())


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure and write one model."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    split = load_digits_split()
    config = digits_config(options.norm, options.norm_position)
    routing = None if options.mod is None else Routing(options.mod)
    model = train(config, split, options.epochs, options.seed, routing)
    score = accuracy(model)
    name = checkpoint_name(options.norm, options.norm_position, options.mod)
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out / f"{name}.safetensors", save(model.state_dict()))
    entry = {
        "accuracy": round(score, 6),
        "epochs": options.epochs,
        "seed": options.seed,
        "test_images": len(split.x_test),
    }
    record(options.out / "accuracy.json", name, entry)
    print(f"{name}: accuracy {score:.4f} on {len(split.x_test)} test images")


def _parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(description="Train one digits ViT.")
    parser.add_argument("--norm", choices=NORM_KINDS, default="layer")
    parser.add_argument("--norm-position", choices=NORM_POSITIONS, default="pre")
    parser.add_argument(
        "--mod", type=float, metavar="RATIO", help="Mixture-of-Depths with this share of patches"
    )
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    default = Path(__file__).parent.parent / "models" / "checkpoints"
    parser.add_argument("--out", type=Path, default=default, help="folder (default: %(default)s)")
    return parser


if __name__ == "__main__":
    main()
