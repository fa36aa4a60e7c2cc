"""A candidate's process: answers, and words for every way in which it can end."""

import os
import signal
import sys
import time

import pytest

from passel.backends.tuning.child import Child, Lost, environment

ECHO = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"


def child(code: str) -> Child:
    return Child([sys.executable, "-c", code], environment(1, 2))


@pytest.fixture
def started():
    children = []

    def start(code):
        children.append(child(code))
        return children[-1]

    yield start
    for one in children:
        one.stop()


def test_orders_and_answers(started):
    one = started(ECHO)
    for number in range(3):
        assert one.ask({"n": number}, 30) == {"n": number}


def test_a_long_answer(started):
    one = started(
        "import json, sys\nsys.stdin.readline()\nprint(json.dumps({'a': [0.1] * 100000}))"
    )
    assert len(one.ask({}, 30)["a"]) == 100000


def test_an_answer_in_pieces(started):
    one = started(
        "import sys, time\nsys.stdin.readline()\nw = sys.stdout\nw.write('{\"a\":'); w.flush()\n"
        "time.sleep(0.2); w.write('1}\\n'); w.flush(); time.sleep(60)"
    )
    assert one.ask({}, 30) == {"a": 1}


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os.kill(os.getpid(), 11)", "the process was ended by SIGSEGV"),
        ("import os; os.kill(os.getpid(), 9)", "ended by SIGKILL: out of memory?"),
        ("import sys; print('no!', file=sys.stderr); sys.exit(3)", "ended with status 3: no!"),
        ("raise ValueError('odd')", "the process ended with status 1: ValueError: odd"),
        ("", "the process ended with status 0"),
    ],
)
def test_why_a_process_ended(started, code, reason):
    with pytest.raises(Lost, match=reason.replace("?", r"\?")):
        started("import sys; sys.stdin.readline()\n" + code).ask({}, 30)


def test_a_process_that_hangs_is_ended(started):
    one = started("import time; time.sleep(600)")
    began = time.monotonic()
    with pytest.raises(Lost, match="no answer within 0 s"):
        one.ask({}, 0.3)
    assert time.monotonic() - began < 10
    with pytest.raises(ProcessLookupError):
        os.kill(one.pid, 0)


def test_ctrl_c_on_the_terminal_is_not_for_candidates(started):
    one = started(ECHO)
    one.ask({}, 30)
    assert os.getpgid(one.pid) != os.getpgid(0)


def test_the_environment_is_small_and_says_how_many_threads(monkeypatch):
    monkeypatch.setenv("SECRET", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("PASSEL_CACHE", "/x")
    found = environment(0, 2)
    assert "SECRET" not in found
    assert found["OMP_NUM_THREADS"] == found["TVM_NUM_THREADS"] == "2"
    assert environment(1, 2)["OMP_NUM_THREADS"] == "1"
    assert found["PASSEL_CACHE"] == "/x"


def test_stopping_twice_is_no_error(started):
    one = started(ECHO)
    one.stop()
    one.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_candidate_dies_with_its_parent(tmp_path):
    """Even one that is busy in a call, and so reads no end of input."""
    code = (
        "import time\nfrom passel.backends.tuning.serve import die_with_parent\n"
        "die_with_parent()\nprint('{}', flush=True)\ntime.sleep(600)"
    )
    parent = Child(
        [
            sys.executable,
            "-c",
            "import json, subprocess, sys\n"
            f"one = subprocess.Popen([sys.executable, '-c', {code!r}], stdout=subprocess.PIPE)\n"
            "one.stdout.readline()\nsys.stdin.readline()\n"
            "print(json.dumps({'pid': one.pid}), flush=True)\nsys.stdin.readline()",
        ],
        environment(1, 2),
    )
    pid = parent.ask({}, 120)["pid"]
    os.kill(parent.pid, signal.SIGKILL)
    parent.stop()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and _runs(pid):
        time.sleep(0.05)
    assert not _runs(pid)


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
