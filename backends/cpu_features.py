"""One spelling for the instruction sets that kernels care about, as Linux writes them."""

import difflib
from collections.abc import Iterable

from ..errors import InvalidInput

X86 = (
    "sse4_1",
    "sse4_2",
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx_vnni_int8",
    "avx512f",
    "avx512bw",
    "avx512cd",
    "avx512dq",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "amx_fp16",
)
ARM = ("neon", "fp16", "dotprod", "i8mm", "bf16", "sve", "sve2", "sme")
FEATURES = (*X86, *ARM)
"""Every feature known here, the weaker ones first."""
ALIASES = {
    "asimd": "neon",
    "asimdhp": "fp16",
    "fphp": "fp16",
    "asimddp": "dotprod",
    "pni": "",
    "sse41": "sse4_1",
    "sse42": "sse4_2",
}
"""Other names, of Linux on ARM and of CPUID, without separators."""


def canonical(name: str) -> str | None:
    """The one spelling of a feature (avx512-vnni, AVX512VNNI, avx512_vnni), None if unknown."""
    bare = _bare(name)
    return _BY_BARE.get(ALIASES.get(bare, bare).replace("_", ""))


def known(names: Iterable[str]) -> tuple[str, ...]:
    """Those of the names that are known here, each once, in the order of `FEATURES`."""
    found = {canonical(name) for name in names}
    return tuple(name for name in FEATURES if name in found)


def checked(names: Iterable[str]) -> tuple[str, ...]:
    """All of the names, as `known` gives them.

    Raises:
        InvalidInput: one of them is unknown; says which are close.
    """
    given = tuple(names)
    for name in given:
        if canonical(name) is None:
            close = difflib.get_close_matches(name.lower(), FEATURES, 3) or FEATURES
            raise InvalidInput(f"features: unknown {name!r}; expected {', '.join(close)}")
    return known(given)


def _bare(name: str) -> str:
    return "".join(char for char in name.lower() if char.isalnum())


_BY_BARE = {_bare(name): name for name in FEATURES}
