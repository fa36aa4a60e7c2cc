"""Tables, scales and codes of a weight fitted to the layer's output.

Why: L = tr((T − Ŵ)·H·(T − Ŵ)ᵀ), Ŵ = s·table[k], is smooth in the entries and in log s: Adam moves
them together at fixed codes. In one column's codes at a time L is Σ_i H_jj·(ŵ_ij − z_ij)² plus a
constant, z_j = ŵ_j − ((Ŵ − T)·H)_j/H_jj, so the nearest entries to z are its exact minimum: a
proximal step that jumps no further than the gradient asks for.
Exactness: of every state that Adam passes and of every turn the best is kept, so L never rises.
Effect: a turn costs about `STEPS` + 2 products [O, I]·[I, I].
"""

from dataclasses import replace

import numpy as np

from ..rounded import Part
from .tables import stored_scale

TURNS = 4
STEPS = 15
LAZY = 128


def learned(part: Part, target: np.ndarray, second: np.ndarray, labels: np.ndarray) -> Part:
    """`part` with lower L.

    Args:
        part: codes [O, I] into a sorted table [K] or [O, K].
        target: T [O, I].
        second: H [I, I].
        labels: which rows share a table [O]; of [K] not looked at.
    """
    best, least = part, loss(part, target, second)
    for turn in range(TURNS):
        before = least
        for moves_codes in (True, False):
            found = (
                moved_codes(best, target, second)
                if moves_codes
                else moved_values(best, target, second, labels, 0.5**turn)
            )
            after = loss(found, target, second)
            if after < least:
                best, least = found, after
        if not least < before * (1 - 1e-3):
            break
    return best


def loss(part: Part, target: np.ndarray, second: np.ndarray) -> float:
    """L in float64."""
    delta = part.dense() - target
    return float(((delta @ second) * delta).sum())


def moved_codes(part: Part, target: np.ndarray, second: np.ndarray) -> Part:
    """One sweep over the columns, each to the codes nearest to z; H_jj = 0 keeps its codes.

    (Ŵ − T)·H is made anew for `LAZY` columns at a time and kept up to date inside them.
    """
    assert part.table is not None
    width, table = target.shape[1], part.table
    scale = np.broadcast_to(part.format.spread(part.scale, width), target.shape)
    codes, delta = part.codes.astype(np.int64), part.dense() - target
    middles = (table[..., 1:] + table[..., :-1]) / 2
    for first in range(0, width, LAZY):
        here = slice(first, min(first + LAZY, width))
        slope = delta @ second[:, here]
        for j in range(here.start, here.stop):
            usable = scale[:, j] != 0
            if second[j, j] <= 0 or not usable.any():
                continue
            wish = target[:, j] + delta[:, j] - slope[:, j - first] / second[j, j]
            unit = wish / np.where(usable, scale[:, j], 1.0)
            chosen = (
                np.searchsorted(middles, unit)
                if table.ndim == 1
                else (middles < unit[:, None]).sum(axis=1)
            )
            codes[:, j] = np.where(usable, chosen, codes[:, j])
            value = scale[:, j] * entries(table, codes[:, j])
            change = value - target[:, j] - delta[:, j]
            delta[:, j] += change
            slope += change[:, None] * second[j, here]
    return replace(part, codes=codes.astype(part.codes.dtype))


def entries(table: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The values of one code a row, [O]."""
    return table[codes] if table.ndim == 1 else table[np.arange(len(table)), codes]


def moved_values(
    part: Part, target: np.ndarray, second: np.ndarray, labels: np.ndarray, rate: float
) -> Part:
    """Tables and scales moved by Adam at fixed codes; `rate` scales its paces."""
    table, scale = adam(part, target, second, labels, rate)
    return resorted(part, table, scale)


def adam(
    part: Part, target: np.ndarray, second: np.ndarray, labels: np.ndarray, rate: float
) -> tuple[np.ndarray, np.ndarray]:
    """The best table and scale on Adam's way, float64, of the shapes of `part`'s.

    Works in units of the table's mean gap and of the first loss, in float32.
    """
    import torch  # late: passes can be listed without it

    assert part.table is not None
    shared = part.table.ndim == 1
    groups = np.zeros_like(labels) if shared else labels
    firsts = np.unique(groups, return_index=True)[1]
    start = np.atleast_2d(part.table)[[0] if shared else firsts]  # [clusters, K]
    gap = float(np.ptp(start, axis=1).mean()) / max(start.shape[1] - 1, 1) or 1.0
    width = target.shape[1]
    block = part.format.block if part.format.block > 0 else width
    of_column, of_row = torch.arange(width) // block, torch.from_numpy(groups)[:, None]
    codes = torch.from_numpy(part.codes.astype(np.int64))
    goal, metric, scale, table = (
        torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
        for array in (target, second, part.scale, start)
    )
    shift = torch.zeros_like(table, requires_grad=True)
    growth = torch.zeros_like(scale, requires_grad=True)
    optimizer = torch.optim.Adam(
        [{"params": [shift], "lr": 0.1 * rate}, {"params": [growth], "lr": 0.01 * rate}]
    )
    best, least, unit = (np.zeros_like(start), np.zeros_like(part.scale)), np.inf, 0.0
    for _ in range(STEPS + 1):
        spread = (scale * growth.exp())[:, of_column]
        delta = spread * (table + gap * shift)[of_row, codes] - goal
        slope = delta.detach() @ metric
        error = float((slope * delta.detach()).sum())
        unit = unit or max(error, 1e-30)
        if error < least:
            least = error
            best = shift.detach().double().numpy().copy(), growth.detach().double().numpy().copy()
        shift.grad, growth.grad = torch.autograd.grad(delta, (shift, growth), slope / unit)
        optimizer.step()
    tables = start + gap * best[0]
    return tables[0] if shared else tables[groups], part.scale * np.exp(best[1])


def resorted(part: Part, table: np.ndarray, scale: np.ndarray) -> Part:
    """`part` with these values in float32, entries in order and codes renamed to match."""
    order = np.argsort(table, axis=-1, kind="stable")
    names = np.argsort(order, axis=-1, kind="stable")
    codes = part.codes.astype(np.int64)
    renamed = names[codes] if table.ndim == 1 else np.take_along_axis(names, codes, axis=1)
    ordered = np.take_along_axis(table, order, axis=-1)
    return replace(
        part,
        codes=renamed.astype(part.codes.dtype),
        table=ordered.astype(np.float32).astype(np.float64),
        scale=stored_scale(scale),
    )
