"""PostgreSQL: the only place that knows the driver ``psycopg`` (extra ``postgres``).

================  =================================================================================
``store``         ``open_store``; ``PostgresStore``: threads that run use cases, each on its connection
``writes``        ``Writer``: one use case as one transaction, run again if another one got in its way
``readers``       queries in threads, on connections of their own
``waiting``       which of the use cases that wait is run next
``notices``       what the managers on one database tell each other; the task that keeps the clock right
``clock``         the database's time
``epochs``        connections in the present epoch: nothing is kept when a standby was promoted
``catalog``       registered nodes, by the version that all managers share
``start``         the first connection, which may have to wait for the server
``database``      making, checking and migrating the tables
``moving``        a SQLite file, moved here
``server``        the URL, connecting, and what errors may say of it
``connection``    a connection; which errors mean that it is lost
``pipeline``      statements of a connection, several sent and answered at once
``dialect``       what the engines say differently
``translation``   statements and tables in PostgreSQL's words
``condition``     the condition of the database, for ``doctor``
``adaptation``    values on their way there and back
================  =================================================================================

Rules: any number of managers, all active. One use case is one transaction (READ COMMITTED), which may be run
again from its start; nothing is announced before its COMMIT is answered. No lock outlasts a transaction.
No wait for the server is without a limit (``connection``): one that hangs keeps its connections open.
Statements wait until somebody asks what one of them found, so that most cost no round trip of their own.
Behind a pooler that lends sessions by transaction nothing else does: settings are made anew in each one,
nothing is prepared, and what waits is found by polling.
"""
