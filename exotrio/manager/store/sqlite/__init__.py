"""SQLite: the only place that knows the driver ``sqlite3``.

==============  ===================================================================================
``store``       ``open_store``; ``MemoryStore`` (in the calling task), ``FileStore`` (a writer thread)
``commits``     ``Committer``: groups of use cases in one transaction
``dialect``     what the engines say differently
``readers``     queries in threads, on connections of their own
``database``    opening a file, checking its version, and owning it by a lock
``copy``        a consistent copy of a file that is in use, for backups
==============  ===================================================================================

Rules: one process owns a file (a lock beside it says so). One connection writes, in one thread: the store's
writer, or in memory the caller's. WAL mode, ``synchronous=FULL``; readers see what was last committed.
"""
