"""Everything that a user can set: ``sections`` says what each setting means and bounds it, ``presets`` holds named
starting points, and ``settings`` changes single values of a preset (``--set section.key=value``).

This package may not know what a setting is used for.
"""
