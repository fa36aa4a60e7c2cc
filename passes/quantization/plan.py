"""Choose the form of every product by what it does to the model's outputs, within a budget.

Each product is tried alone in each of its forms (sensitivity.py), a choice is made as if noise
added up (greedy.py), and the whole choice is then made real on the graph, rounding included, and
measured on the same samples. What noise adds up to in truth, relative to the sum, corrects the
bound for the next round: down until the budget is met, and once up where it is met by far.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...errors import InvalidInput
from ...graph import Op, Value
from ...graph.snapshot import Snapshot
from ...progress import say
from ..base import Refusal, decibels
from .activations import result_of
from .budget import Budget
from .candidates import matrix_of
from .greedy import Ladder, Option, choose
from .ladder import cost_of, forms_of
from .layer import LayerData
from .place import Form, follows_activation
from .rounded import Part, Rounded
from .rounding import round_weight
from .sensitivity import Sensitivity, held, trial
from .sites import Left, Product
from .stored import is_plain

if TYPE_CHECKING:
    from .work import Work

ROUNDS = 6
"""Choices that are made real; the last one stands for all that can be done about noise."""
MARGIN = 0.95
SLACK = 0.5
"""A choice of less noise than this share of what is allowed may be too dear."""
WORST = 1e30
"""The noise of a product that makes infinities."""
Ranges = dict[Value, tuple[float, float]]


@dataclass(frozen=True)
class Attempt:
    """A choice made real.

    Attributes:
        options: one per product.
        products: those that are quantized, rounded.
        noise: at the worst output.
        bytes: of all constants.
    """

    options: list[Option]
    products: list[Product]
    noise: float
    bytes: int

    @property
    def cost(self) -> float:
        return sum(option.cost for option in self.options)


class Plan:
    """The forms of all products of one run.

    Args:
        work: the run.
        chosen: the products and the forms that the scheme gives them.
        ranges: of what static products read.
    """

    def __init__(self, work: "Work", chosen: Sequence[tuple[Op, Form]], ranges: Ranges) -> None:
        self.work, self.graph, self.chosen, self.ranges = work, work.graph, chosen, ranges
        self.budget = Budget.of(work.asked.budget)
        asked = f"budget={work.asked.budget!r}" if self.budget else "sensitivity=True"
        self.sensitivity = Sensitivity(self.graph, work.needed(asked))
        self.before = held(self.graph)
        self.ladders = self._ladders()

    def sites(self) -> Iterator[Left | Product]:
        """What is left in float, then the products; each of them with its noise alone."""
        if not self.budget:
            for product in self.work.products(self.chosen, self.ranges):
                yield self._told(product, self.ladders[product.anchor].options[0])
            return
        found = self._within_budget()
        options = dict(zip(self.ladders, found.options, strict=True))
        for op, option in options.items():
            if option.form is None:
                yield Left(op, self._refusal(op))
        for product in found.products:
            yield self._told(product, options[product.anchor])

    # -- measuring ---------------------------------------------------------------------------------

    def _ladders(self) -> dict[Op, Ladder]:
        """What each product could be, with the noise of each form."""
        forms = {op: self._forms(op, own) for op, own in self.chosen}
        tried = {
            op: [self._quick(op, form) for form in found if form is not None]
            for op, found in forms.items()
        }
        noise = dict(self.sensitivity.each(tried))
        return {
            op: Ladder(
                tuple(self._options(op, forms[op], tried[op], noise[op])),
                follows_activation(op.require(0)),
            )
            for op in forms
        }

    def _forms(self, op: Op, own: Form) -> list[Form | None]:
        """Forms that may be tried; a placement gives way to the budget."""
        return forms_of(self.graph, op, own, self.budget) if self.budget else [own]

    def _quick(self, op: Op, form: Form) -> Product:
        """A product rounded without data: fast, and hardly less precise than it will be."""
        layer = LayerData(matrix_of(op), name=op.name)
        rounded = round_weight(layer, form.weight, self.work.stages_of(op, form, blind=True))
        made = result_of(self.graph, op)
        result = None if made is None else self.ranges.get(made)
        low, high = self.ranges.get(op.require(0), (0.0, 0.0))
        return Product(op, form, _narrow(rounded), low, high, result=result)

    def _options(
        self, op: Op, forms: Sequence[Form | None], tried: Sequence[Product], noise: Sequence[float]
    ) -> Iterator[Option]:
        for product, lost in zip(tried, noise, strict=True):
            with trial(self.graph, product):
                growth = held(self.graph) - self.before
            yield Option(product.form, growth, min(lost, WORST), cost_of(op, product.form))
        if None in forms:
            yield Option(None, 0, 0.0, cost_of(op, None))

    # -- choosing ----------------------------------------------------------------------------------

    def _within_budget(self) -> Attempt:
        """The cheapest choice that was seen to meet the budget."""
        noise, size = self.budget.noise, self.budget.size(self.before)
        best, last = None, None
        for number in range(ROUNDS):
            options = self._choice(noise, size, best or last)
            if last is not None and options == last.options:
                break
            last = self._tried(options, f"choice {number + 1}")
            met = self._is_met(last)
            if best is not None:  # this one was an attempt to do with less
                best = min((best, last), key=lambda one: one.cost) if met else best
                break
            best = last if met else None
            if met and (noise is None or size is not None or last.noise >= SLACK * noise):
                break
            noise = self._corrected(last, noise, final=number == ROUNDS - 2)
            size = None if size is None else size - max(0, last.bytes - self._size(last))
        if best is None:
            raise self._missed(last)
        return best

    def _choice(
        self, noise: float | None, size: float | None, last: Attempt | None
    ) -> list[Option]:
        try:
            return choose(list(self.ladders.values()), noise, size, self.before)
        except InvalidInput as error:
            if last is None:
                raise
            raise self._missed(last) from error

    def _tried(self, options: Sequence[Option], label: str) -> Attempt:
        """Make a choice real, measure it, and undo it."""
        forms = zip(self.ladders, (one.form for one in options), strict=True)
        wanted = [(op, form) for op, form in forms if form is not None]
        products = []
        before = Snapshot(self.graph)
        try:
            for product in self.work.products(wanted, self.ranges):
                products.append(replace(product, rounded=_narrow(product.rounded)))
                products[-1].apply(self.graph)
            say(f"quantize: measuring {label}")
            return Attempt(list(options), products, self.sensitivity.noise(), held(self.graph))
        finally:
            before.restore()

    def _corrected(self, last: Attempt, noise: float | None, *, final: bool) -> float | None:
        """The bound on the sum of noise, from what the last sum came to."""
        if noise is None or self.budget.noise is None:
            return None
        if last.noise > self.budget.noise and final:
            return 0.0
        added = sum(option.noise for option in last.options)
        corrected = MARGIN * self.budget.noise * added / max(last.noise, 1e-300)
        return corrected if last.noise <= self.budget.noise else min(corrected, MARGIN * added)

    def _is_met(self, one: Attempt) -> bool:
        size = self.budget.size(self.before)
        quiet = self.budget.noise is None or one.noise <= self.budget.noise
        return quiet and (size is None or one.bytes <= size)

    def _size(self, one: Attempt) -> float:
        return self.before + sum(option.bytes for option in one.options)

    # -- telling -----------------------------------------------------------------------------------

    def _missed(self, last: Attempt | None) -> InvalidInput:
        assert last is not None
        return InvalidInput(
            f"budget: expected {self.budget.told(self.before)}, the nearest choice that was "
            f"measured has an SNR of {decibels(1, last.noise):.2f} dB in {last.bytes:,} bytes; ask "
            "for less"
        )

    def _refusal(self, op: Op) -> Refusal:
        alone = decibels(1, self.ladders[op].options[0].noise)
        detail = f"{alone:.1f} dB at the worst output with only this op quantized"
        return Refusal("the budget sends it back to float", op.name, detail)

    def _told(self, product: Product, option: Option) -> Product:
        if product.quality is None:
            return product
        alone = decibels(1, option.noise)
        return replace(product, quality=replace(product.quality, alone_snr_db=alone))


def _narrow(rounded: Rounded) -> Rounded:
    """The same in a byte a code or less to hold: all products of a model are held at once."""
    if not is_plain(rounded):
        return rounded

    def narrow(part: Part) -> Part:
        return replace(part, codes=part.codes.astype(part.format.grid.dtype))

    return replace(rounded, parts=tuple(narrow(part) for part in rounded.parts))
