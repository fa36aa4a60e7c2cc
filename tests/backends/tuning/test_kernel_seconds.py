"""Tuned kernels as a decision: when it is offered, and what becomes of it in a plan."""

from passel.backends.tuning.plan import Plan
from passel.backends.tuning.space import OFF, ON, Space
from passel.backends.tuning.standing import Limits
from tests.backends.tuning.races import planned


def test_short_searches_leave_kernels_alone() -> None:
    assert Limits.of("20s", None).kernel_seconds == 0
    assert Limits.of(None, 5).kernel_seconds == 0
    assert Limits.of("10min", None).kernel_seconds == 150


def test_the_decision_is_tvms_alone() -> None:
    space = Space(backends=("onnxruntime", "tvm"), kernel_seconds=30.0)
    asked: set[str] = set()

    def suggest(name: str, options: tuple) -> object:
        asked.add(name)
        return options[0]

    space.plan(suggest)
    assert "kernels" not in asked
    assert planned(space, {"backend": "tvm", "kernels": ON}).kernels == 30.0
    assert planned(space, {"backend": "tvm", "kernels": OFF}).kernels == 0.0
    tuned = [values for values in space.starts() if values.get("kernels") == ON]
    assert [planned(space, values).backend for values in tuned] == ["tvm"]
    assert planned(Space(backends=("onnxruntime", "tvm")), {"backend": "tvm", "kernels": ON}) == (
        planned(Space(backends=("onnxruntime", "tvm")), {"backend": "tvm"})
    )


def test_it_is_part_of_the_plan() -> None:
    plan = Plan(backend="tvm", form="", kernels=30.0)
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.digest != Plan(backend="tvm", form="").digest
    assert "tuned kernels" in str(plan)
