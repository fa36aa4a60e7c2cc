"""What is said about a TVM that is missing, or that does not fit its own runtime."""

import importlib
import os
import sys
from importlib.metadata import PackageNotFoundError

import pytest

from passel.backends import hardware
from passel.backends.tvm import available
from passel.errors import BackendUnavailable

GOOD = {"apache-tvm": "0.27.0.post1", "apache-tvm-ffi": "0.1.14.post1"}


@pytest.fixture
def installed(monkeypatch):
    """Pretend that other versions are installed; None stands for a package that is not."""

    def pretend(**packages: str | None) -> None:
        names = {name.replace("_", "-"): found for name, found in packages.items()}

        def version(name: str) -> str:
            found = {**GOOD, **names}[name]
            if found is None:
                raise PackageNotFoundError(name)
            return found

        monkeypatch.setattr(hardware, "version", version)

    return pretend


@pytest.mark.parametrize(
    ("packages", "message"),
    [
        ({"apache_tvm": None}, r'needs Apache TVM, which is missing: pip install "passel\[tvm\]"'),
        ({"apache_tvm": "0.26.0"}, r"needs apache-tvm 0\.27\.0\.post1, but 0\.26\.0 is installed"),
        ({"apache_tvm_ffi": None}, r"needs apache-tvm-ffi, which is missing: pip install"),
        ({"apache_tvm_ffi": "0.1.15"}, r"ffi 0\.1\.15 does not work .* \"apache-tvm-ffi>=0\.1\.14"),
        ({"apache_tvm_ffi": "0.1.15.post2"}, r"0\.1\.15\.post2 does not work with"),
        ({"apache_tvm_ffi": "0.2.0"}, r"0\.2\.0 does not work with"),
        ({"apache_tvm_ffi": "0.1.9"}, r"0\.1\.9 does not work with"),
    ],
)
def test_versions_that_do_not_fit(installed, packages, message):
    installed(**packages)
    with pytest.raises(BackendUnavailable, match=message):
        available.require()


@pytest.mark.parametrize("ffi", ["0.1.14", "0.1.14.post1"])
def test_versions_that_fit(installed, ffi):
    installed(apache_tvm_ffi=ffi)
    assert available.problem() is None


def test_a_tvm_that_does_not_start(installed, monkeypatch):
    def broken(name: str) -> None:
        raise OSError("libLLVM.so: cannot open shared object file")

    installed()
    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(BackendUnavailable, match=r"cannot be imported: libLLVM\.so"):
        available.require()


def test_the_pool_is_as_large_as_the_machine_unless_the_user_says_otherwise(installed, monkeypatch):
    installed()
    monkeypatch.delitem(sys.modules, "tvm", raising=False)
    monkeypatch.setattr(importlib, "import_module", lambda name: None)
    monkeypatch.delenv("TVM_NUM_THREADS", raising=False)
    available.require(1)
    assert os.environ["TVM_NUM_THREADS"] == str(max(1, available.pool_size()))
    monkeypatch.setenv("TVM_NUM_THREADS", "1")
    available.require(8)
    assert os.environ["TVM_NUM_THREADS"] == "1"


def test_idle_workers_sleep_unless_the_user_says_otherwise(installed, monkeypatch):
    """TVM's own default keeps a processor busy that others want: they took three times as long."""
    installed()
    monkeypatch.delitem(sys.modules, "tvm", raising=False)
    monkeypatch.setattr(importlib, "import_module", lambda name: None)
    monkeypatch.setenv("TVM_THREAD_POOL_SPIN_COUNT", "7")
    available.require(1)
    assert os.environ["TVM_THREAD_POOL_SPIN_COUNT"] == "7"
    monkeypatch.delenv("TVM_THREAD_POOL_SPIN_COUNT")
    available.require(1)
    assert int(os.environ["TVM_THREAD_POOL_SPIN_COUNT"]) <= 10_000
