"""`passel tune --storage` as people run it on several machines: two processes, one PostgreSQL."""

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from passel.backends.tuning.database import Database
from tests.tools.conftest import make_block

TRIALS = 8


def tune(folder: Path, name: str, url: str) -> "subprocess.Popen[str]":
    """A worker with a cache folder of its own, as on a machine of its own."""
    words = f"tune in.onnx --trials {TRIALS} --threads 1 --input-shape x:2,3,4 --json --storage"
    code = "import sys; from passel.tools.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-P", "-c", code, *words.split(), url],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PASSEL_CACHE": str(folder / name)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.slow
def test_two_workers_share_one_study_on_postgresql(postgres_url, tmp_path):
    onnx.save(make_block(), tmp_path / "in.onnx")
    workers = [tune(tmp_path, name, postgres_url) for name in ("left", "right")]
    found = []
    for worker in workers:
        out, err = worker.communicate(timeout=600)
        assert worker.returncode == 0, err
        found.append(json.loads(out))
    database = Database.open(postgres_url)
    (record,) = database.records()
    assert record.ratio <= 1
    assert record.trials >= TRIALS
    assert {one["ratio"] <= 1 for one in found} == {True}
    (study,) = database.storage().get_all_studies()
    trials = database.storage().get_all_trials(study._study_id)
    signed = {trial.user_attrs["work"]["worker"] for trial in trials if "work" in trial.user_attrs}
    assert len(trials) >= TRIALS
    assert len(signed) == 2

    again = tune(tmp_path, "third", postgres_url)
    out, err = again.communicate(timeout=600)
    assert again.returncode == 0, err
    assert any(note.startswith("taken from the database") for note in json.loads(out)["notes"])
