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
which takes some cycles from one of them to the next into the same register.
"""

from typing import Any

from .loops import allocate, index, local, parallel, sequence, serial, vector
from .weight_only_finish import Finish
from .weight_only_format import dtype_of
from .weight_only_match import Product
from .weight_only_vectors import Codes

CHAINS = 4
"""Sums under way at a time: panels abreast, times registers that a block's sum is spread over."""
ABREAST = 1
"""Panels that share a read of x. On Zen 4 one is as fast as any, and reads memory in one stream."""
WRITTEN_OUT = 64
"""Registers of weights in a loop whose body is written out."""


class LoneRow:
    """Writes the loops for one row; see the module docstring."""

    def __init__(self, product: Product, finish: Finish, threads: int) -> None:
        self.product = product
        self.finish = finish
        self.form = product.form
        self.codes = Codes(product.form, product.weight.table)
        self.abreast = min(ABREAST, self.form.panels)
        self.spread = max(1, CHAINS // self.abreast)
        self.groups = -(-self.form.panels // self.abreast)
        self.tasks = min(threads, self.groups)

    def statement(self, row: Any) -> Any:
        """The row as a statement; `row` is its number."""

        def share(task: Any) -> Any:
            form = self.form
            raised = local([form.blocks * form.block], "float32", "raised")
            totals = local([form.blocks], "float32", "totals")
            start = index(self.groups) * task // index(self.tasks)
            stop = index(self.groups) * (task + index(1)) // index(self.tasks)
            loop = serial(start, stop, lambda group: self._group(group, row, raised, totals))
            shifted = self.product.weight.shift is not None
            buffers = [raised, totals] if shifted else [raised]
            return sequence([*allocate(buffers), self._prepare(row, raised, totals), loop])

        return share(index(0)) if self.tasks == 1 else parallel(index(self.tasks), share)

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

    def _group(self, group: Any, row: Any, raised: Any, totals: Any) -> Any:
        """Some panels; the last ones are moved back to end with the last of all."""
        from tvm import tirx

        panel, first = tirx.Var("panel", "int64"), group * self.abreast
        if self.form.panels % self.abreast:
            first = tirx.min(first, index(self.form.panels - self.abreast))
        return sequence([tirx.Bind(panel, first), *self._panels(panel, row, raised, totals)])

    def _panels(self, panel: Any, row: Any, raised: Any, totals: Any) -> list[Any]:
        from tvm import tirx

        form, panels = self.form, range(self.abreast)
        total = [local([form.lanes], "float32", f"total{c}") for c in panels]
        sums = [
            [local([form.lanes], "float32", f"sum{c}_{n}") for n in range(self.spread)]
            for c in panels
        ]
        flat = [part for parts in sums for part in parts]
        zeros = tirx.Broadcast(tirx.const(0, "float32"), form.lanes)

        def block(b: Any) -> Any:
            made = [tirx.BufferStore(part, zeros, [self._whole()]) for part in flat]
            made.append(self._along(panel, b, raised, sums))
            for c in panels:
                value = self._load(sums[c][0])
                for part in sums[c][1:]:
                    value = value + self._load(part)
                value = self._load(total[c]) + self._scaled(panel + c, b, value, totals)
                made.append(tirx.BufferStore(total[c], value, [self._whole()]))
            return sequence(made)

        begin = [tirx.BufferStore(part, zeros, [self._whole()]) for part in total]
        blocks = serial(index(0), index(form.blocks), block)
        done = [self.finish.panel(row, panel + c, total[c], index(0)) for c in panels]
        return [*allocate([*total, *flat]), *begin, blocks, *done]

    def _along(self, panel: Any, b: Any, raised: Any, sums: list[list[Any]]) -> Any:
        """The sums of one block; a short one is written out."""
        form = self.form

        def step(w: Any) -> list[Any]:
            from tvm import tirx

            at = b * form.block_words + w
            words = [tirx.Var("word", f"int32x{form.lanes}") for _ in sums]
            codes = self.product.weight.codes
            made = [
                tirx.Bind(word, self.codes.word(codes, panel + c, at))
                for c, word in enumerate(words)
            ]
            for j in range(form.each):
                x = tirx.BufferLoad(raised, [at * form.each + j])
                for c, word in enumerate(words):
                    part = sums[c][j % self.spread]
                    weight = tirx.Broadcast(x, form.lanes) * self.codes.raised(word, j)
                    value = self._load(part) + weight
                    made.append(tirx.BufferStore(part, value, [self._whole()]))
            return made

        if form.block <= WRITTEN_OUT:
            return sequence([s for w in range(form.block_words) for s in step(index(w))])
        return serial(index(0), index(form.block_words), lambda w: sequence(step(w)))

    def _scaled(self, panel: Any, b: Any, value: Any, totals: Any) -> Any:
        """What a block adds to the row's result."""
        from tvm import tirx

        weight, lanes = self.product.weight, self.form.lanes
        floats, place = f"float32x{lanes}", [panel, b, index(0)]
        scale = weight.scale.vload(place, floats)
        if weight.shift is None:
            return value * scale
        sum_x = tirx.Broadcast(tirx.BufferLoad(totals, [b]), lanes)
        if dtype_of(weight.shift) == "int8":
            zero = weight.shift.vload(place, f"int8x{lanes}").astype(f"int32x{lanes}")
            return (value - zero.astype(floats) * sum_x) * scale
        return value * scale + weight.shift.vload(place, floats) * sum_x

    def _load(self, buffer: Any) -> Any:
        from tvm import tirx

        return tirx.BufferLoad(buffer, [self._whole()])

    def _whole(self) -> Any:
        from tvm import tirx

        return tirx.Ramp(index(0), index(1), self.form.lanes)
