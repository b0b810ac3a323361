"""Load tests: a mix of requests arrives in a shape, sent by the real client, and is judged by objectives.

In the order of reading: ``shapes`` says which rate is offered when, ``workload`` and ``mix`` what is asked, and
``locustfile`` sends it. ``driver`` runs all that and watches the server meanwhile: its counters (``server_statistics``)
and its memory (``memory``); ``freshness`` measures how soon a write shows. ``recorder`` keeps what became of each
request, ``results`` makes figures of it, ``slo`` judges them, and ``report``, ``charts`` and ``html_report`` show them.
``python -m load_tests`` does all of it; ``locust`` can run ``locustfile`` alone, with the shapes of ``locust_shapes``.
``fuzzing`` is a test of its own, with requests that are malformed.

The package knows the service only as its clients do: it imports neither the server nor the model.
"""
