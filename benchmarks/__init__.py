"""How long each stage takes, and the whole ensemble: beside a floor, a named baseline and the machine's card.

``python -m benchmarks`` runs them all; ``benchmarks.quality`` measures how good the answers are. Nothing here asserts a
time, and nothing imports it.
"""

import os

# As in the stages of `pinrec serve`: OpenMP's threads sleep while they wait, so that what is compared here is what is
# served. It is read when torch is loaded, hence before anything else.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
