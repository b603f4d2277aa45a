"""PostgreSQL: the only place that knows the driver ``psycopg`` (extra ``postgres``).

================  =================================================================================
``store``         ``open_store``; ``PostgresStore``: threads that run use cases, each on its connection
``writes``        ``Writer``: one use case as one transaction, run again if another one got in its way
``readers``       queries in threads, on separate connections
``waiting``       which of the use cases that wait is run next
``notices``       what the managers on one database announce to each other; measuring the clock
``clock``         the database's time
``epochs``        connections in the present epoch: nothing is cached across a failover
``catalog``       registered nodes, by the version that all managers share
``start``         the first connection, which may have to wait for the server
``database``      making, checking and migrating the tables
``moving``        copies a SQLite file into a database
``server``        the URL, connecting, and errors without passwords
``connection``    a connection; which errors mean that it is lost
``pipeline``      statements of a connection, several sent and answered at once
``dialect``       the SQL that differs between the engines
``translation``   other statements and tables, translated for PostgreSQL
``condition``     the condition of the database, for ``doctor``
``adaptation``    conversion of values
================  =================================================================================

Rules: any number of managers, all active. One use case is one transaction (READ COMMITTED), which may be run
again from its start; nothing is announced before its COMMIT is answered. No lock outlasts a transaction.
No wait for the server is without a limit (``connection``): a server that hangs keeps its connections open.
Statements are queued until the result of one is read, so that most need no round trip. Behind a pooler that
lends sessions by transaction no setting outlasts a transaction: each one sets them, nothing is prepared, and
what waits is found by polling.
"""
