"""Looking patterns up by index gives what trying them one by one gives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passel.errors import InvalidInput
from passel.graph.ops import Elementwise
from passel.passes.patterns import Pattern, Patterns

WORDS = st.sampled_from(["a", "b", "a.b", "a.b.c", "ab", "a..b", "gelu", "re:^a", "re:b$", ""])
OPS = st.builds(
    lambda name, scope: Elementwise(fn="gelu", name=name, scope=scope),
    st.sampled_from(["a", "b", "x"]),
    st.sampled_from(["", "a", "a.b", "a.b.c", "ab.c", "a..b", "x.a"]),
)


@given(st.lists(WORDS, max_size=6), st.lists(OPS, min_size=1, max_size=4))
def test_the_index_agrees_with_one_by_one(texts, ops):
    found, singly = Patterns(texts), [Pattern(text) for text in texts]
    for op in ops:
        places = [place for place, one in enumerate(singly) if one.matches(op)]
        assert found.first(op) == min(places, default=None)
    idle = [one.text for one in singly if not any(one.matches(op) for op in ops)]
    if not idle:
        found.check("exclude", ops)
        return
    with pytest.raises(InvalidInput) as caught:
        found.check("exclude", ops)
    assert str(caught.value).startswith(f"exclude: {idle[0]!r} matches no op")
