"""Leave out the tokens that matter least to a layer, in models that were not trained for it.

Rewrite:
    y = layer(x)   ->   y = put(x, i, layer(take(x, i))),   i = top-k of the tokens' scores
for every self-attention layer, from its residual base x to the next layer's y; the layer's
attention then sees the keys of kept tokens only.

Why: a layer's updates of some tokens hardly change the answer. The shares are those of progressive
ratio decay, r_l = a·cos(πl/(L − 1)) + ratio for layer l of L: early layers keep most tokens, late
ones few. Below `minimum` a share is `minimum`; a layer above `maximum` stays as it is, and so does
the last, of which push-tokens leaves out exactly what is not read. Layer l keeps trunc(r_l·N) of N
tokens, the first `always_kept` (a class token) among them. As the cosine swings by a = 1/2, ratio 1
still thins late layers; with `amplitude=0` every layer keeps `ratio`.
Scores come from the layer's own keys, so that no router has to be trained. "class-attention": how
much the first token attends to each, averaged over the heads. "key-norm": ‖k‖, averaged over the
heads, the largest kept: on the digits ViT's training images, at ratio 0.5, that gives 96.5 %, the
smallest 81.9 % (with Unified Norm 92.5 % and 86.9 %).
Exactness: approximate: a dropped token keeps the value it had before the layer.
Legality: attention is one op over the tokens of the residual stream, not causal; its mask hides the
same keys from every query; the rest of the layer computes token by token; the number of tokens is
known. Tokens that the mask hides are chosen last.
Effect: saves the products of dropped tokens, but for their keys, which the scores read. Accuracy on
the 360 test images of the digits ViT (dense: 97.2 %, Unified Norm 98.6 %) and operations, from
`python -m passel.tools.bench.pruning`:
    ratio   operations   class-attention       key-norm
                         layer    unified      layer    unified
    0.3        54 %      79.2 %   78.9 %       77.2 %   67.2 %
    0.4        65 %      94.2 %   96.7 %       92.5 %   84.7 %
    0.5        70 %      95.8 %   97.2 %       95.3 %   89.7 %
    0.6        80 %      96.7 %   97.2 %       95.0 %   97.2 %
    0.7        83 %      96.9 %   98.3 %       95.3 %   97.8 %
    0.8        86 %      96.9 %   97.8 %       94.7 %   98.1 %
    0.9        90 %      97.2 %   98.1 %       95.0 %   98.3 %
    1.0        92 %      97.5 %   98.3 %       95.3 %   98.3 %
At ratio 0.5, eight of ViT-S/16's twelve layers keep 163 to 29 of 197 tokens: 61 % of the
operations and 64 % of the time (one image, random weights, seed 0, ONNX Runtime 1.32.0 with one
thread, a shared x86 core).
References: Zhang et al. 2024, arXiv:2412.04449 (p-MoD, whose release has the schedule); Liang et
al. 2022, arXiv:2202.07800 (EViT: tokens chosen by the class token's attention).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import cos, pi, trunc
from typing import ClassVar

from ..graph import Graph, Op
from ..graph.ops import Attention, Softmax
from .base import Exactness, Pass, Refusal
from .pruning.apart import KEY, QUERY, can_copy
from .pruning.build import Builder
from .pruning.layers import TOKENS, Layer, find_layers
from .pruning.mask import hides_alike, keep_only
from .pruning.scores import class_attention, key_norm
from .tokens.demand import Context
from .tokens.execute import execute
from .tokens.masks import find_masks
from .tokens.plan import plan, positions

SCORES = {"class-attention": class_attention, "key-norm": key_norm}


@dataclass(frozen=True)
class LayerSite:
    """One self-attention layer, or an op that computes what may be one.

    Attributes:
        anchor: the attention.
        layer: where the layer begins and ends; None where the attention is not one op.
        routed: its mask tells which tokens a router chose.
    """

    anchor: Op
    layer: Layer | None = None
    routed: bool = False

    @property
    def touched(self) -> tuple[Op, ...]:
        return (self.anchor,) if self.layer is None else (self.anchor, *self.layer.inside)


@dataclass(frozen=True)
class PruneTokens(Pass[LayerSite]):
    """Keep the tokens with the highest scores; see the module docstring.

    Attributes:
        ratio: the share of tokens to keep that the schedule is centred on.
        minimum, maximum: no layer keeps less; a layer that would keep more stays dense.
        scores: "class-attention" or "key-norm".
        always_kept: how many of the first tokens are never dropped.
        amplitude: a of the schedule; 0 for the same share in every layer.
    """

    name: ClassVar[str] = "prune-tokens"
    exactness: ClassVar[Exactness] = Exactness.APPROXIMATE

    ratio: float = 0.5
    minimum: float = 0.15
    maximum: float = 0.85
    scores: str = "class-attention"
    always_kept: int = 1
    amplitude: float = 0.5

    def __post_init__(self) -> None:
        """Check the parameters."""
        for name in ("ratio", "minimum", "maximum"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(
                    f"expected {name} above 0 and at most 1, got {getattr(self, name)!r}"
                )
        if self.minimum > self.maximum:
            raise ValueError(f"expected minimum <= maximum {self.maximum}, got {self.minimum}")
        if not 0 <= self.amplitude <= 1:
            raise ValueError(f"expected amplitude from 0 to 1, got {self.amplitude!r}")
        if self.scores not in SCORES:
            raise ValueError(f"expected scores in {tuple(SCORES)}, got {self.scores!r}")
        least = int(self.scores == "class-attention")
        if not isinstance(self.always_kept, int) or self.always_kept < least:
            raise ValueError(
                f"expected always_kept of at least {least} for {self.scores}, "
                f"got {self.always_kept!r}"
            )

    def match(self, graph: Graph) -> Iterator[LayerSite]:
        unfused = [op for op in graph.walk(Softmax) if _is_attention(op)]
        yield from (LayerSite(op) for op in unfused)
        sites, place = _sites(graph), 0
        while place < len(sites):
            site = sites[place]
            place += 1
            if site.layer is not None and not site.layer.thinned:
                yield site
            if site.anchor.erased:  # rewritten: later layers begin at other values
                sites = _sites(graph)

    def refuse(self, graph: Graph, site: LayerSite) -> Refusal | None:
        layer, attention = site.layer, site.anchor
        if layer is None or not isinstance(attention, Attention):
            return Refusal("attention is not one op", attention.name, "run canonicalize before")
        if site.routed:
            return Refusal("a router chooses its tokens", attention.name)
        if layer.base is None:
            return Refusal("its result is not added to what its keys come from", attention.name)
        if not layer.over:
            return Refusal("its keys are not the tokens of the residual stream", attention.name)
        return _attention_refusal(self, layer) or _layer_refusal(self, layer)

    def rewrite(self, graph: Graph, site: LayerSite) -> None:
        layer = site.layer
        assert layer is not None
        build = Builder(graph, layer)
        scores = SCORES[self.scores](build)
        where = keep_only(build, scores, _kept(self, layer), self.always_kept)
        masks = find_masks(graph)
        choice = masks[where.require(0)][TOKENS].choice
        seeds = [where, layer.attention]
        execute(graph, plan(graph, positions(graph), seeds, Context(masks, choice)))


def _is_attention(op: Softmax) -> bool:
    """Whether a softmax is over the keys of several queries, for several heads."""
    shape = op.output.shape or ()
    return len(shape) == 4 and op.axis == 3 and shape[2] != 1


def _sites(graph: Graph) -> list[LayerSite]:
    masks, sites = find_masks(graph), []
    for layer in find_layers(graph):
        mask = layer.attention.operand(3)
        routed = mask is not None and (mask.rank or 0) - 1 in masks.get(mask, {})
        sites.append(LayerSite(layer.attention, layer, routed))
    return sites


def _attention_refusal(one: PruneTokens, layer: Layer) -> Refusal | None:
    """What is wrong with the attention itself."""
    attention = layer.attention
    if attention.causal:
        return Refusal("attention is causal", attention.name)
    if not hides_alike(attention.operand(3)):
        return Refusal("its mask may hide other keys from each query", attention.name)
    heads = [attention.require(k).shape[1] for k in (QUERY, KEY)]  # type: ignore[index]
    if one.scores == "class-attention" and heads[0] != heads[1]:
        return Refusal("several heads share a key", attention.name, f"{heads[0]} to {heads[1]}")
    if not all(can_copy(layer, k) for k in (QUERY, KEY)):
        return Refusal("an unknown operator computes its queries or keys", attention.name)
    return None


def _layer_refusal(one: PruneTokens, layer: Layer) -> Refusal | None:
    """What is wrong with the layer around it, or with how many tokens are asked for."""
    attention, tokens = layer.attention, _tokens(layer)
    if layer.result is None:
        return Refusal("no layer follows", attention.name)
    if tokens is None:
        return Refusal("the number of tokens is not known", attention.name)
    if layer.mixing is not None:
        return Refusal("tokens cannot be followed through the layer", layer.mixing.name)
    if one.always_kept > tokens:
        text = f"{one.always_kept} of {tokens}"
        return Refusal("more tokens are always kept than there are", attention.name, text)
    share, count = _share(one, layer), _kept(one, layer)
    if count >= tokens:
        return Refusal("the schedule keeps every token", attention.name, f"{share:.0%}")
    if count <= one.always_kept:
        text = f"{count} of {tokens}"
        return Refusal("the schedule keeps no token to choose", attention.name, text)
    return None


def _tokens(layer: Layer) -> int | None:
    """How many tokens the stream has; None where that is symbolic."""
    assert layer.base is not None
    extent = (layer.base.shape or ("",) * 3)[TOKENS]
    return extent if isinstance(extent, int) else None


def _share(one: PruneTokens, layer: Layer) -> float:
    bounds = (one.minimum, one.maximum)
    return prd_ratio(layer.index, layer.depth, one.ratio, one.amplitude, *bounds)


def _kept(one: PruneTokens, layer: Layer) -> int:
    return trunc(_share(one, layer) * (_tokens(layer) or 0))


def prd_ratio(
    layer: int, depth: int, ratio: float, amplitude: float, minimum: float, maximum: float
) -> float:
    """r_l = a·cos(πl/(L − 1)) + ratio of layer l of L, at least minimum; 1 above maximum."""
    share = amplitude * cos(pi * layer / max(depth - 1, 1)) + ratio
    return 1.0 if share > maximum else max(share, minimum)
