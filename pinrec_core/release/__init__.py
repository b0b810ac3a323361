"""A run becomes what serves: ``calibration`` indexes it and chooses its thresholds, ``indexed_model`` answers requests,
``format`` is the folder on disk, ``compiling`` makes its compiled generator and ``programs`` finds one that fits,
``publishing`` writes a release, ``current`` points at the one that serves.

It may not know who asks, nor how an evaluation chooses its users.
"""
