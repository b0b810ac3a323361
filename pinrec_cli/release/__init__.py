"""``pinrec release``: a run becomes a release, and the release is listed, published, taken back and removed. ``group``
has the commands; ``tables`` is how they show releases.
"""
