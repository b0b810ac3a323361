"""Files and folders that are written whole or not at all: ``file_writing`` for the files that libraries write,
``mapped_tensor`` for one that is read where it lies, ``output_folder`` for a folder that replaces another one,
``folder_lock`` for a folder that one process at a time works in, and ``temporary_folder``. ``held_folder`` tells the
folders of living processes from left-overs. ``symbolic_link`` moves a link in one step, and ``on_disk`` forces files to
the disk.

This package may not know what any of them holds.
"""
