"""The command line, one module per command; ``main`` registers them. It may know everything; nothing imports it but the
benchmarks, which run its commands.
"""
