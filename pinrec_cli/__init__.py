"""The command line, one module per command; ``main`` registers them.

It may import every other package. Only the benchmarks, which run its commands, may import it.
"""
