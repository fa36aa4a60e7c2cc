"""One row of x times a weight of few bits: every byte of the weight is read once, in order.

    parallel for share of panels:
        r[k] = x[k]·2^(−power of k);  X[b] = Σ_{k in b} x[k]                 once per share
        for panel:
            total = 0
            for block b:
                sums[0..3] = 0
                for word: for its code j: sums[j % 4] += r[k]·raised code
                total += scale[b]·(Σ sums − z[b]·X[b])
            stages of (row, columns of the panel)

The scale is applied to the sum of a block, not to each weight, so that a register of weights takes
three instructions: mask, convert, multiply and add. Several sums keep the multiply-add unit busy,
which takes some cycles from one of them to the next into the same register. One panel at a time
reads memory in one stream; on Zen 4 several abreast, which share a read of x, are no faster.
"""

from typing import Any

from .loops import allocate, index, local, over_tasks, part_of, ramp, sequence, serial, vector
from .weight_only_finish import PanelFinish
from .weight_only_format import dtype_of
from .weight_only_match import Product
from .weight_only_vectors import Codes, floats_of

CHAINS = 4
"""Registers that a block's sum is spread over."""
WRITTEN_OUT = 64
"""Registers of weights in a loop whose body is written out."""


class LoneRow:
    """Writes the loops for one row; see the module docstring."""

    def __init__(self, product: Product, finish: PanelFinish, threads: int) -> None:
        self.product = product
        self.finish = finish
        self.form = product.form
        self.codes = Codes(product.form, product.weight.table)
        self.tasks = min(threads, self.form.panels)

    def statement(self, row: Any) -> Any:
        """The row as a statement; `row` is its number."""

        def share(task: Any) -> Any:
            form = self.form
            raised = local([form.blocks * form.block], "float32", "raised")
            totals = local([form.blocks], "float32", "totals")
            bounds = part_of(index(form.panels), task, self.tasks)
            loop = serial(*bounds, lambda panel: self._panel(panel, row, raised, totals))
            shifted = self.product.weight.shift is not None
            buffers = [raised, totals] if shifted else [raised]
            return sequence([*allocate(buffers), self._prepare(row, raised, totals), loop])

        return over_tasks(self.tasks, share)

    def _prepare(self, row: Any, raised: Any, totals: Any) -> Any:
        """r and X, word by word; what fills up the last block is 0."""
        from tvm import tirx

        form = self.form
        part = local([form.each], "float32", "part")
        zero = tirx.const(0, "float32")

        def block(b: Any) -> Any:
            def word(w: Any) -> Any:
                def lane(j: Any) -> Any:
                    k = b * form.block + w * form.each + j
                    value = self._x(row, k)
                    kept = [tirx.BufferStore(raised, value * self.codes.factor(j), [k])]
                    if self.product.weight.shift is not None:
                        total = tirx.BufferLoad(part, [j]) + value
                        kept.append(tirx.BufferStore(part, total, [j]))
                    return sequence(kept)

                return vector(form.each, lane)

            words = serial(index(0), index(form.block_words), word)
            if self.product.weight.shift is None:
                return words
            start = vector(form.each, lambda j: tirx.BufferStore(part, zero, [j]))
            total: Any = zero
            for j in range(form.each):
                total = total + tirx.BufferLoad(part, [index(j)])
            return sequence([start, words, tirx.BufferStore(totals, total, [b])])

        blocks = serial(index(0), index(form.blocks), block)
        shifted = self.product.weight.shift is not None
        return sequence([*allocate([part] if shifted else []), blocks])

    def _x(self, row: Any, k: Any) -> Any:
        from tvm import tirx

        value = tirx.BufferLoad(self.product.x, [*self.finish.at(row), k])
        if self.form.blocks * self.form.block == self.form.rows:
            return value
        return tirx.if_then_else(k < self.form.rows, value, tirx.const(0, "float32"))

    def _panel(self, at: Any, row: Any, raised: Any, totals: Any) -> Any:
        """The results of one panel."""
        from tvm import tirx

        form, panel = self.form, tirx.Var("panel", "int64")
        total = local([form.lanes], "float32", "total")
        sums = [local([form.lanes], "float32", f"sum{n}") for n in range(CHAINS)]
        zeros = tirx.Broadcast(tirx.const(0, "float32"), form.lanes)

        def block(b: Any) -> Any:
            made = [self._stored(part, zeros) for part in sums]
            made.append(self._along(panel, b, raised, sums))
            value = self._load(sums[0])
            for part in sums[1:]:
                value = value + self._load(part)
            value = self._load(total) + self._scaled(panel, b, value, totals)
            return sequence([*made, self._stored(total, value)])

        blocks = serial(index(0), index(form.blocks), block)
        begin, done = self._stored(total, zeros), self.finish.panel(row, panel, total, index(0))
        buffers = allocate([total, *sums])
        return sequence([tirx.Bind(panel, at), *buffers, begin, blocks, done])

    def _along(self, panel: Any, b: Any, raised: Any, sums: list[Any]) -> Any:
        """The sums of one block; a short one is written out."""
        form = self.form

        def step(w: Any) -> list[Any]:
            from tvm import tirx

            at = b * form.block_words + w
            word = tirx.Var("word", f"int32x{form.lanes}")
            made = [tirx.Bind(word, self.codes.word(self.product.weight.codes, panel, at))]
            for j in range(form.each):
                x = tirx.BufferLoad(raised, [at * form.each + j])
                part = sums[j % CHAINS]
                weight = tirx.Broadcast(x, form.lanes) * self.codes.raised(word, j)
                made.append(self._stored(part, self._load(part) + weight))
            return made

        if form.block <= WRITTEN_OUT:
            return sequence([s for w in range(form.block_words) for s in step(index(w))])
        return serial(index(0), index(form.block_words), lambda w: sequence(step(w)))

    def _scaled(self, panel: Any, b: Any, value: Any, totals: Any) -> Any:
        """What a block adds to the row's result."""
        from tvm import tirx

        weight, lanes = self.product.weight, self.form.lanes
        place = [panel, b, index(0)]
        scale = floats_of(weight.scale, place, lanes)
        if weight.shift is None:
            return value * scale
        sum_x = tirx.Broadcast(tirx.BufferLoad(totals, [b]), lanes)
        moved = floats_of(weight.shift, place, lanes) * sum_x
        is_zero_point = dtype_of(weight.shift) == "int8"
        return (value - moved) * scale if is_zero_point else value * scale + moved

    def _load(self, register: Any) -> Any:
        from tvm import tirx

        return tirx.BufferLoad(register, [ramp(0, self.form.lanes)])

    def _stored(self, register: Any, value: Any) -> Any:
        from tvm import tirx

        return tirx.BufferStore(register, value, [ramp(0, self.form.lanes)])
