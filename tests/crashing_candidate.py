"""A candidate's process in which one form crashes and another hangs; run as a script."""

import os
import signal
import sys
import time

from passel import candidate

CRASHES, HANGS = "matrices, skip norms", "as lowered"


class Fragile(candidate.Planned):
    """A plan whose building may end its process, or never end."""

    def __init__(self, plan, subject):
        if plan.form == CRASHES:
            os.kill(os.getpid(), signal.SIGSEGV)
        if plan.form == HANGS:
            time.sleep(600)
        super().__init__(plan, subject)


if __name__ == "__main__":
    candidate.Planned = Fragile
    candidate.main(sys.argv[1:])
