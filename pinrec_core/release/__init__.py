"""A run becomes what serves, and what has served ends.

*Made:* ``calibration`` indexes a run and chooses its thresholds, ``indexed_model`` answers requests, ``format`` is the
folder on disk and ``manifest`` what it says of itself, ``compiling`` makes its compiled generator and ``programs``
finds one that fits, ``publishing`` writes a release, ``extending`` writes one of a newer catalogue. *Served:*
``portability`` is what this ``machine`` lacks for it, ``checking`` and ``switching`` decide what ``current`` points at.
*Ended:* ``inventory`` lists what there is, ``in_use`` tells what serves, ``pruning`` removes the rest.

It may not know who asks, nor how an evaluation chooses its users.
"""
