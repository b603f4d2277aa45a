"""Use cases that write: plain functions of a ``Transaction``, each whole in one transaction.

One that leaves something to do after the commit returns ``store.effects.WithEffects``.

=============  ====================================================================================
``graphs``     register nodes, store graphs with their secrets and schedules
``runs``       trigger runs, one or many, also by cron; cancel one; which secrets a state's node is given
``pausing``    nodes of which nothing is claimed, schedules that trigger nothing
``claims``     take states
``releases``   hand them back
``exchange``   record outcomes and take states, together
``outcomes``   what an outcome does to a state, which states follow, and the delay before a retry
``ended_runs`` the runs that end in one use case, each counted once
``masking``    secrets in errors and log lines, masked before these are recorded
``logs``       what executions logged and printed, as it is stored
``unites``     when a united node runs
``inputs``     the inputs of a new state, built from placeholders
``retries``    retries by hand
``leases``     how long claims hold
``managers``   the state managers that share a database, and what one at a time does for all
``retention``  delete finished runs
``deletion``   delete a graph with all that is its own
``states``     ``Changes``: inserts and transitions of states, with every counter that follows
``workers``    the runtimes that were heard of, and what is asked of them
``sign_in``    sessions of the dashboard, links that open one, and wrong keys
=============  ====================================================================================

Nothing here awaits, knows HTTP or reads a clock: the time is ``tx.now_ms``, and leases are given theirs.
``exotrio.manager.background`` calls what has to happen by itself.

A use case loads what it needs, decides, and saves, each with a few statements: as many for one state as for a
thousand. When outcomes are recorded (``outcomes.record_batch``), these run for the whole batch, besides the
savepoint around the use case (``manager.store``) and templates that are not cached (``store.catalog``):

1. ``states.states_to_change``: the states with their runs. Token and status decide if an outcome counts.
2. Only if something needs it: inputs of states that are copied, and ``inputs.read_shared``: ancestors and
   store values that placeholders name.
3. ``Changes.apply``: new states, states that ended, members of groups, counters of places, groups and runs.
4. ``unites.commit_changes``: the counters of groups that changed. If united nodes run now, what they read,
   and step 3 again for them; then the groups around those.
5. ``logs.keep``: log lines, if there are any.

Leases: a native claim holds for a term (60 s) from its last heartbeat. Deadlines are on the clock of leases:
for SQLite the monotonic clock of this process, where a restart (``leases.restart``) gives every claim a fresh
term; else the clock of the database. ``workers.heartbeat`` renews them; ``managers.sweep``, which
``background`` calls, ends what is overdue and takes back what was held inside a state manager that is gone. A
state whose lease ended is claimable again without a retry used, and an outcome of its former holder counts
until somebody else claims it.
"""
