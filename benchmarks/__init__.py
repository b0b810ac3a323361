"""Benchmarks of each stage and of the whole ensemble, each beside a floor, a named baseline and the machine's card.

``python -m benchmarks`` runs all of them; ``benchmarks.quality`` measures how good the answers are. Nothing here
asserts a time, and no other package may import this one.
"""

import os

# No thread spins while it waits, as in the stages of `pinrec serve`, so that what is timed here is what is served. The
# libraries read these variables when they are loaded, so they are set before anything else.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
