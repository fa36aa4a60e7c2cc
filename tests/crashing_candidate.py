"""A candidate's process in which one form ends badly: `FOLDER crash` or `FOLDER hang`."""

import os
import signal
import sys
import time

from passel import candidate

FRAGILE = "matrices"
"""The first that is tried, so that few trials are enough."""


class Fragile(candidate.Planned):
    """A plan whose building may end its process, or never end."""

    def __init__(self, plan, subject):
        if plan.form == FRAGILE and sys.argv[2] == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if plan.form == FRAGILE:
            time.sleep(600)
        super().__init__(plan, subject)


if __name__ == "__main__":
    candidate.Planned = Fragile
    candidate.main(sys.argv[1:2])
