"""Who a user is, from two sources (the Lambda architecture of PinRec, serving): ``batch_job`` (Spark) and
``batch_view`` hold what happened up to a day, ``store``, ``rocksdb_store`` and ``realtime`` what happened since,
``merge`` and ``user_histories`` make one history of both. ``fetch_stage`` reads it for a request, ``ingest_stage``
writes events.

It may not know the model or Triton.
"""
