"""Hand out names that nothing in a model has yet."""


class Names:
    """The names taken so far."""

    def __init__(self) -> None:
        self.taken: dict[str, int] = {}

    def fresh(self, hint: str) -> str:
        """`hint`, or `hint` with a number if it is taken."""
        count = self.taken.get(hint)
        if count is None:
            self.taken[hint] = 0
            return hint
        self.taken[hint] = count + 1
        return self.fresh(f"{hint}_{count + 1}")
