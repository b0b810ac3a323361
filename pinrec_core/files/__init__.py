"""Files and folders that are whole or not there: ``file_writing``, ``output_folder``, ``folder_lock`` and
``temporary_folder``.

It may not know what any of them holds.
"""
