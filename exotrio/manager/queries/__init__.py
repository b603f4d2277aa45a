"""Use cases that read: plain functions of a ``View``, each an answer to one question.

================ ==================================================================================
``runs``         runs in lists, found by a search
``run``          one run with its counts, or its states as a graph, for both APIs
``run_detail``   what the page and the export of one run show
``related``      which run started a run, and which runs it started
``states``       states in lists: of a namespace, or of one run, those that failed first
``state_times``  when a state waited, was held and ran, and for how long
``state_detail`` one state with its history, for both APIs and for pages
``branches``     which branches were taken, and why
``search``       runs, states, graphs and nodes that fit a text
``graphs``       registered nodes, graphs and namespaces, in lists and as pages show them
``load``         how many states wait, run and failed of each node, who holds them, how long they took
``trends``       how many states ended and failed, and how long they took, over an hour, a day or a week
``runtimes``     the runtimes that sent a request lately
``broken_runs``  which runs in flight new code of nodes breaks
``versions``     versions of code: which live runtimes have them, and which are needed
``waiting``      why states wait
``obstacles``    what keeps all states of a node from being claimed
``limits``       what holds limits, and what waits for them
``audit``        who changed what
``overview``     what happens in a namespace
``checkup``      the state manager itself: leases, claims, database
``paging``       parts of queries: conditions, the page of a list, the end of a text
================ ==================================================================================

A run in a list is a ``RunSummary`` and a state a ``StateSummary``, for a page as for the API, the client and
the command line. Queries change nothing and know nothing of HTML. Ages of runtimes and state managers are
on the clock of leases (``View.lease_now``). ``Store.read`` runs the short ones that runtimes wait for;
``Store.read_with_deadline`` runs those that people wait for. A query must cost the same however long the
history is: it reads an index that finished states are not in, or stops after a number of rows and says so.

A statement means the same on both engines, and its order is complete: equal rows have no defined order
(``tests/manager/queries`` runs each query on SQLite and PostgreSQL and compares the answers).
"""
