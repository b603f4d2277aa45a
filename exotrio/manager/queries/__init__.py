"""Use cases that read: plain functions of a ``View``, each an answer to one question.

================ ==================================================================================
``runs``         runs in lists, searched, with their counts, with their states
``run_detail``   what the pages of one run and its report show
``run_states``   the states of one run in pages, those that failed first
``search``       what one text stands for
``states``       states in lists, and one as v0 shows it
``state_detail`` one state with all that happened to it, for the native API and for pages
``graphs``       registered nodes, graphs and namespaces, in lists and as pages show them
``load``         how much waits, runs and failed of each node, who holds what, how long it took
``trends``       how much ended and failed, and how long it took, over an hour, a day or a week
``workers``      the runtimes that were heard of
``overview``     a namespace at a glance, put together of the former
``checkup``      the state manager itself: leases, claims, database
``where``        parts of statements: conditions, the end of a text
================ ==================================================================================

They change nothing and know nothing of HTML. ``Store.read`` runs the short ones that runtimes wait for;
``Store.look`` runs those that people wait for, with a deadline. A query must cost the same beside any
history: it reads an index that finished states are not in, or stops after so many rows and says so.

A statement means the same on both engines, and its order is complete: equal rows have no order of their own
(``tests/manager/queries`` asks SQLite and PostgreSQL everything and compares the answers).
"""
