"""Histories of users, from two sources (PinRec, serving: a Lambda architecture).

``batch_job`` (Spark) and ``batch_view`` hold the events before the end of a batch. ``store``, ``rocksdb_store`` and
``realtime`` hold the events since. ``merge`` and ``user_histories`` make one history of both. ``fetch_stage`` reads it
for a request, and ``ingest_stage`` writes events.

This package may know neither the model nor Triton.
"""
