"""How the stages of `quantize` say what they are doing."""

from ...progress import say


def tell(done: int, total: int, label: str) -> None:
    """As a `Progress`."""
    say(f"quantize: {label}")
