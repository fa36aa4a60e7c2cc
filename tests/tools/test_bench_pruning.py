"""What the table of prune-tokens is made of; the whole of it is the command's affair."""

import pytest

from passel.passes import PruneTokens
from passel.tools.bench.pruning import measured, row


def test_the_dense_model_and_one_ratio() -> None:
    dense, pruned = measured("layer", None), measured("layer", PruneTokens(scores="key-norm"))
    assert (dense.kept, dense.flops) == ((17, 17, 17, 17), 1)
    assert (pruned.kept, pruned.ratio) == ((17, 12, 4, 17), 0.5)
    assert pruned.flops == pytest.approx(0.692, abs=0.01)
    assert pruned.accuracy < dense.accuracy
    assert row(dense)[0] == "dense"
    assert row(pruned)[:3] == ("0.5", "key-norm", "17 12 4 17")
