"""Plans: text and back, what is refused, what a session gets of them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passel.backends.choices import LEVELS, SessionChoice
from passel.backends.select import FORM
from passel.backends.tuning.plan import BACKENDS, EXPORTED, Plan
from passel.errors import InvalidInput

SESSIONS = st.builds(
    SessionChoice,
    level=st.sampled_from(sorted(LEVELS)),
    spinning=st.booleans(),
    disabled_optimizers=st.lists(st.text(max_size=5), max_size=2).map(tuple),
)
PLANS = st.builds(
    Plan,
    passes=st.lists(st.text(max_size=8), max_size=3).map(tuple),
    backend=st.sampled_from(BACKENDS),
    form=st.sampled_from((*FORM.options, EXPORTED)),
    session=SESSIONS,
    threads=st.integers(0, 64),
    affinity=st.lists(st.integers(0, 63), max_size=4).map(tuple),
    streams=st.integers(1, 8),
)


@given(PLANS)
def test_a_plan_is_its_text(plan):
    assert Plan.from_json(plan.to_json()) == plan
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@given(PLANS, PLANS)
def test_plans_are_equal_exactly_where_their_digests_are(one, other):
    assert (one == other) == (one.digest == other.digest)


def test_how_a_plan_was_found_is_no_part_of_it():
    text = json.dumps({**Plan().to_dict(), "search": {"seconds": 3}})
    assert Plan.from_json(text) == Plan()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "plan: not JSON"),
        ("[]", "plan: expected an object, got list"),
        ("{}", "plan: expected the fields of a plan"),
        (json.dumps({**Plan().to_dict(), "more": 1}), "plan: expected the fields of a plan"),
        (json.dumps({**Plan().to_dict(), "backend": "gpu"}), "plan: expected a backend of "),
        (json.dumps({**Plan().to_dict(), "threads": -1}), "plan: expected threads and streams"),
        (
            json.dumps(
                {**Plan().to_dict(), "session": {**SessionChoice().to_dict(), "level": "x"}}
            ),
            "plan: expected a level of ",
        ),
    ],
)
def test_text_of_no_plan(text, message):
    with pytest.raises(InvalidInput, match=message):
        Plan.from_json(text)


def test_the_session_gets_threads_and_every_processor_but_the_callers():
    choice = Plan(threads=3, affinity=(0, 2, 5)).session_choice
    assert (choice.threads, choice.affinities) == (3, "3;6")  # ONNX Runtime counts from 1
    options = choice.session_options()
    assert options.get_session_config_entry("session.intra_op_thread_affinities") == "3;6"
    assert Plan(threads=3).session_choice.affinities == ""


def test_a_plan_in_words():
    plan = Plan(
        (), "onnxruntime", "matrices", SessionChoice(level="basic", spinning=False), 2, (0, 1)
    )
    assert str(plan) == "matrices, 2 threads, level basic, no spinning, on processors 0 1"
    assert str(Plan()) == "as exported"
