"""The two HTTP APIs, v0 and native: paths, headers, statuses and bodies. Servers and clients share them, so
both sides agree by construction.

- ``vocabulary``: paths, headers, limits and statuses
- ``body``: the base of the models, with the types of ids, times and durations
- ``v0``, ``graphs``: bodies of the stock state manager's API
- ``native``: bodies of native routes for runtimes: claims, outcomes, releases
- ``heartbeats``: bodies of the native route for heartbeats
- ``runs``: bodies of native routes about runs: their start, their counts, their times
- ``events``: bodies of native routes about the events of runs
- ``operations``: bodies of native routes for operators: lists, and changes of runs in flight
- ``states``: bodies of the native route for one state with its history
- ``limits``: bodies of native routes about limits, and why a state waits for one
- ``releases``: bodies of native routes about which runs in flight new code would break
- ``audit``: bodies about the record of changes
- ``overview``: bodies that show what happens in a namespace, and its runtimes
- ``checkup``: bodies that show the condition of a state manager and its database

Rules
-----

1. On the wire a duration is whole milliseconds, in a field that ends in ``_ms`` (on v0 also
   ``backoff_factor``, ``max_delay``, ``start_delay`` and ``enqueue_after``). Everywhere else exotrio counts
   float seconds: ``to_ms``, ``from_ms`` and the types in ``body`` convert.
2. Every list and object of a request has a maximum size, or fails at the first problem: the problems of a
   body of 2 MB must not take 2 GB.
3. A field is added with a default, so that an older server and a newer client understand each other.
4. No module with bodies has ``from __future__ import annotations``: pydantic would compile each annotation
   again, which takes every process 5 ms.
"""
