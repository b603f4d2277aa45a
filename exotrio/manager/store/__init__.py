"""The database of a state manager: what use cases and queries work with, and how writes become durable.

==============  ===================================================================================
``view``        ``View``, which queries get
``transaction`` ``Transaction``, which use cases get
``effects``     what a use case returns with its value: what to announce, to count, to undo
``errors``      what goes wrong with a database
``catalog``     templates and registered nodes, kept parsed
``readers``     queries in threads
``driver``      what an engine's driver and its dialect of SQL have to offer, as protocols
``schema``      the tables and their version
``participants`` the tables of runtimes, state managers, keys and sessions
``migrations``  how older tables come to it, and how to change a table
``numbers``     the numbers of new rows
``limited_nodes`` which nodes have which limits
``heads``       where a claim begins to search for waiting states
``virtual_times`` how far the fair order of claims has come
``clock``       the wall clock, and what happens when it is set
``tallies``     counts of states and runs that ended, by node, graph, time, status and duration
``writes``      a use case on its way to a commit, and what a commit did
``topics``      writes that wait for a topic
``base``        ``Store``, which runs queries and use cases: what the stores of all engines share
``cipher``      secrets, encrypted
``shared_keys`` the keys for secrets that the state managers on one database have
``opening``     opening a database by its name, whatever its engine, and the first writes to it
``sqlite``      an engine: opening and owning a file, commits, readers, copies
``postgres``    another one, which several state managers may share
==============  ===================================================================================

Open a store with ``opening.open_store``. Only commands that open a file or a database themselves import from
an engine.

A third engine would be a package next to ``sqlite`` and ``postgres``, with an ``open_store`` that
``opening.open_store`` calls. It has a subclass of ``base.Store`` (commits, and copies for backups), one
of ``readers.Readers`` (queries), a ``driver.Dialect``, and what adapts the tables of ``schema`` and the
statements in other packages, if needed (as ``postgres.translation``). ``_util.database_url`` recognizes the
engine of a database by its name. ``tests/manager/store/test_conformance.py`` tests every engine in
``tests.support.stores.ENGINES``.

A *use case* is a plain function of a ``Transaction`` and its arguments, a *query* one of a ``View``. Neither
awaits anything, so both can be run in any thread, and again.

What one commit does on SQLite (``sqlite.commits.Committer.commit``):

1. ``BEGIN IMMEDIATE``. The clock is compared with that of the last commit; if it was set back, what waits is
   moved back with it.
2. Each use case in the queue runs in a savepoint. One that raises is undone alone.
3. Use cases that wait for a topic which this commit announces (a claim that waits for a node, say) run in the
   same commit, so that a waiting runtime needs no second one.
4. ``COMMIT``, with ``synchronous=FULL``: one sync to disk for up to 256 use cases.
5. Only then are results handed to the tasks that wait for them. If the commit fails, all get an error,
   and nothing of it happened. A caller who is gone by then has its result undone (``Effects.undo``).
"""
