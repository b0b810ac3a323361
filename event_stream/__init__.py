"""Events that arrive from a stream: they are read from a source and written to the running service.

Read the modules in this order: ``source`` (what every source offers), ``json_lines``, ``parquet`` and ``kafka`` (the
sources), ``checkpoint`` (how far a file has been read), ``opening`` (which source an address means), ``records`` (how a
record becomes an event), ``stopping``, ``delivery`` (a batch of records is written, and what cannot be used is
separated from its neighbours), ``rejected`` (where that goes) and ``ingestion`` (the loop, with its order of commits).

The promise: a record counts as read only after the service has acknowledged its event, or after the file of rejected
records holds it. So a killed run loses nothing, and what the next one repeats changes nothing, because the service
keeps one copy of an event. The package knows no model, no store and no command line.
"""
