"""The command line, one module per command; ``main`` registers them. It imports the packages; none imports it."""
