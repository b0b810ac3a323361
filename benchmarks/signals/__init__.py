"""What the signal service survives and how fast it is: kills against an oracle of acknowledged events, on real stores.

Each module is a program of its own, ``python -m benchmarks.signals.<name>``. Nothing here asserts a time.
"""
