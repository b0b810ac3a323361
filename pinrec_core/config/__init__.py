"""Everything that can be set: ``sections`` (what each setting means, and its bounds), ``presets`` (named starting
points) and ``settings`` (``--set section.key=value``).

It may not know what is done with a setting.
"""
