"""Use cases that write: plain functions of a ``Transaction``, each complete in one transaction.

==================  ===============================================================================
``nodes``           register nodes
``graphs``          store graphs with their secrets and schedules
``triggers``        trigger runs, one or many
``runs``            find and cancel runs, change their priority; the secrets for the node of a state
``limits``          make, change and delete limits; declare those of a graph
``schedules``       trigger graphs by their schedules
``pausing``         pause nodes, whose states are then not claimed, and schedules, which then trigger nothing
``slots``           how much room limits have, and what takes and frees it
``lanes``           which states of a claim find room, and which wait in lanes
``candidates``      the states that a claim may take, found in their order
``claims``          claim states, also in the use case that records outcomes
``claim_replies``   what the reply to a claim says about each state
``order``           in which order states are claimed: turns, and states that are due later
``releases``        release claimed states
``checkpoints``     the last value that the node of a state set, for its next execution
``outcomes``        record outcomes: what each does to a state, and when it is retried
``attempts``        further attempts at states that failed
``following``       the states that follow a finished one
``reported_texts``  errors and log lines that runtimes report: masked, bounded and stored
``states``          the statuses of states, and reading states
``changes``         ``Changes``: new states and transitions, with every counter that follows
``ended_runs``      the runs that end in one use case, as the metrics count them
``failures``        runs that end with errors: which have to start another one
``alerts``          start these
``unites``          when a united node runs, and when it runs again
``sources``         the values that placeholders name, read for a whole batch
``inputs``          the inputs of a new state, built from placeholders
``calls``           runs that the nodes of states called, and what came of them
``mailbox``         events of runs, and the states that wait for them
``sending``         send an event to a run; end overdue waits
``children``        runs that states start: start them, and tell the states of their ends
``child_cancellation`` cancel those of states that have ended
``run_results``     what runs that have ended give the states that wait for them
``event_links``     links by which a person without a key sends one event to one run
``retries``         retries by hand
``due_work``        what is due about waits, children, alerts and moves
``unfinished``      changes of large runs that go on in portions: cancel, retry, priority, version
``portions``        go on with such a change
``moves``           move the states of a run to another priority, or to other nodes
``leases``          how long claims hold, and what happens when they end
``renewals``        which leases a heartbeat renews, and what it says about states
``keys``            add, revoke and list named keys
``managers``        the state managers that share a database, and the duties that one at a time does
``retention``       delete finished runs
``deletion``        delete a graph with everything in it
``versions``        which versions of code runs, states and graphs need
``workers``         runtimes as their heartbeats and claims show them, and commands to them
``stops``           receipts: how each runtime ended
==================  ===============================================================================

Nothing here awaits, knows HTTP or reads a clock: the time is ``tx.now_ms``, and the time of leases is an
argument. A use case refuses a request with an exception of ``rules.errors``. If something has to be done
after its commit (to announce states, say), it returns its value ``WithEffects`` (``store.effects``).
``exotrio.manager.background`` calls the use cases that no request asks for.

A use case loads what it needs, decides, and saves, each with a few statements: as many for one state as for a
thousand. When outcomes are recorded (``outcomes.record_batch``), these run for the whole batch, besides the
savepoint around the use case (``manager.store``) and templates that are not cached (``store.catalog``):

1. ``states.states_to_change``: the states with their runs. Token and status decide if an outcome counts.
2. Only if something needs it: inputs of states that are copied, and ``sources.read_shared``: ancestors and
   store values that placeholders name.
3. ``Changes.apply``: new states, states that ended, their checkpoints, members of groups, counters of places,
   groups and runs. The dialect of each engine builds these statements (``store.sqlite.dialect``,
   ``store.postgres.dialect``).
4. ``unites.write_changes``: the counters of groups that changed. If united nodes run now, what they read,
   and step 3 again for them; then the groups around those.
5. ``reported_texts.store_logs``: log lines, if there are any.
6. ``slots.free``: checks for the limits of states that ended. A claim of the same request does this.

Three things span transactions:

- A child begins, and its end reaches the state that waits for it, in a transaction right after the commit
  that asks for it. Rows say that this is due, so a sweep does it if the process ends in between
  (``due_work``).
- A slot is a held lease, or the hold of a node that has not stopped, which has an end (``slots``).
- A large change of a run is a row of ``meta`` from its first portion to its last one (``unfinished``).

Leases: a native claim holds for a term (30 s) from its last heartbeat; half as long if the runtime closed the
connection of its heartbeats without a goodbye and sends none in that time (``leases.end_leases``). Deadlines
are on the clock of leases: for SQLite the monotonic clock of this process, where a restart
(``leases.restart``) gives every claim a new term; otherwise the clock of the database. ``workers.heartbeat``
renews them. ``managers.sweep``, which ``background`` calls, ends overdue leases and takes back what was held
inside a state manager that is gone. A state whose lease ended is claimable again without using a retry, and
an outcome of its former holder counts until another runtime claims it.
"""
