"""Use cases that write: plain functions of a ``Transaction``, each whole in one transaction.

=============  ====================================================================================
``graphs``     register nodes, store graphs and their secrets
``runs``       trigger (also by cron expressions) and cancel runs; which secrets a state's node is given
``claims``     take states and hand them back
``outcomes``   what an outcome does to a state, which states follow, and the delay before a retry
``unites``     when a united node runs
``inputs``     the inputs of a new state, built from placeholders
``retries``    retries by hand
``leases``     how long claims hold
``retention``  delete finished runs
``states``     ``Changes``: inserts and transitions of states, with every counter that follows
``workers``    the runtimes that were heard of, and what is asked of them
=============  ====================================================================================

Nothing here awaits, knows HTTP or reads a clock: the time is ``tx.now_ms``, and leases are given theirs.
``exotrio.manager.background`` calls what has to happen by itself.

When an outcome is recorded (``outcomes.record_batch``), these statements run for each item, besides the
savepoint around the use case (``manager.store``) and templates that are not cached (``store.port``):

1. ``states.find_state``: the state with its run. Its token and status decide whether the outcome counts.
2. ``outcomes._executed`` (or ``_errored``, ``_requeued``, ``_finish``): ``UPDATE states``. ``Follow`` gathers
   the next states for step 3; ``inputs`` reads ancestors and the run's store only if a placeholder
   names them.

and once for the batch, in ``unites.decide``:

3. ``Changes.apply``: new states, members of groups, counters of places, runs and groups, one ``executemany``
   for each table.
4. For each group that changed ``unites._fire``: its counters, and the united state if it is complete.

Leases: a native claim holds for a term (60 s) from its last heartbeat. Deadlines are on the monotonic clock
of this process. A restart (``leases.restart``) gives every claim a fresh term, and ``leases.recover`` takes
back what runtimes inside the former process held. ``leases.renew`` is the heartbeat; ``leases.expire``, which
``background.sweep`` calls, ends what is overdue. A state whose lease ended is claimable again without a retry
used, and an outcome of its former holder counts until somebody else claims it.
"""
