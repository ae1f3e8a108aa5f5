"""Moves the clock of a Python process by what `TEST_CLOCK_AHEAD_S` says; the clock goes on from there.

`tests/conftest.py` puts this folder on PYTHONPATH, so that every process that a test starts has the same clock. What
the variable says is a distance and not a moment: processes that start one after the other agree about the time.
"""

import os
import time

AHEAD = "TEST_CLOCK_AHEAD_S"

if AHEAD in os.environ:
    import time_machine

    hatch = time_machine.escape_hatch
    real = hatch.time.time() if hatch.is_travelling() else time.time()
    time_machine.travel(real + float(os.environ[AHEAD]), tick=True).start()
