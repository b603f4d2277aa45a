"""SQLite: the only place that knows the driver ``sqlite3``.

==============  ===================================================================================
``store``       ``open_store``; ``MemoryStore`` (in the calling task), ``FileStore`` (a writer thread)
``commits``     ``Committer``: groups of use cases in one transaction
``dialect``     the SQL that differs between the engines
``readers``     queries in threads, on separate connections
``database``    opening a file, checking its version, and owning it by a lock
``copy``        a consistent copy of a file that is in use, for backups
``names``       names in a file that any process may have open, for the completion of a shell
==============  ===================================================================================

Rules: one process owns a file (a lock file next to it). One connection writes, in one thread: the store's
writer, or in memory the caller's. WAL mode, ``synchronous=FULL``; readers see what was last committed.
"""
