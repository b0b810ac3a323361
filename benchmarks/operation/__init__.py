"""Drills: what happens to a service when something is done to it, each against the goal of docs/operate.md.

``python -m benchmarks.operation`` runs them on the real server under load: ``kills`` of stage processes, ``overload``,
``swaps`` of releases, ``stops``, and a ``soak``. ``load`` sends the requests and ``drill`` starts the server; both know
nothing of what is drilled.
"""
