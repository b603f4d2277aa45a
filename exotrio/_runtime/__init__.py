"""A runtime: it claims states, runs their nodes, delivers the outcomes, and stops without losing any.

::

    runtime        Runtime, the public class         options       its arguments, checked
    entry          start() from plain code, signals  lifecycle     phases and endings
    engine         registers; holds the nursery      ledger        what is held, from claim to delivery
                                                     held_claim    one claimed state
    poller         claims                            worker        executes
    planner        how much is claimed, and by       heartbeat     renews leases, even if the loop is blocked,
                   which request                                   in a heartbeat_thread
                                                     checkpoint_queue  which checkpoints that brings
                                                     vitals        how the runtime is, from any thread
                                                     receipt       how a stop goes
    reporter       delivers, and claims on the way   outbox        outcomes on disk
    failed_attempts  what is said of these           outbox_store  the file of the outbox
    server_errors  distinguishes an outcome with     stop          requests to stop
                   which the state manager fails     shutdown      the phases after the first request
                   from an outage
    watchdog       ends a process that does not      task_tree     where the tasks wait, from any thread
                   stop

``Runtime``, ``Phase`` and ``Summary`` are public through ``exotrio``, ``Vitals`` through
``exotrio.monitoring``. The command line also uses ``entry``, whose signals it shares, counts the outcomes in
files of ``outbox_store``, and shows the state of a log line, a ``held_claim``.

How holding and reporting work
==============================

``claimed`` and ``finished`` are channels with room for ``batch_size`` states::

    poller --claimed--> worker --> (outbox) --finished--> reporter --> link
       |                  |                       ^
       +---- release -----+---- the shutdown -----+

1. The ledger comes first. A claim is entered before it is passed to a worker, an outcome before it is
   passed to the reporter. So nothing is lost unnoticed, whatever is cancelled: all that the ledger still
   holds at the end is written off.
2. A held claim only moves forward: BUFFERED, RUNNING, DONE, and is then removed with one ``Ending``. A worker
   drops one that is no longer BUFFERED: so a state can be released, lost or cancelled while it is in a
   channel. A claim that repeats a held state takes it over. A claim of another state with the same id, from
   a database that went back in time, replaces it: nothing more is sent about the former one.
3. A worker waits for deliveries only while ``finished`` is full. A state that is released, repeated or
   comes from the outbox waits for room in a task instead. Nothing is claimed while more than a full load is
   being delivered (``planner``).
4. There is one dispatcher, and at most twice as many deliveries as workers are in flight. On v0 each is one
   state, on a native link a batch. An item that failed waits outside of the queue and of that limit until its
   next attempt, so the deliveries of a state never overlap. The flush ends the wait. So do an answered
   heartbeat and, once, another delivery that gets through: an outage may be over.
5. A requeue without a lease token could run a finished state again if it is sent twice. It is marked in the
   outbox before it is sent; if its answer is lost, its fate is unknown and it is not sent again. At the
   very end of a stop, where no answer could come any more, it is left to the next process. Everything else
   may be repeated.
6. An outcome is replaced in one case: the state manager rejects its body. It refuses the body (413, 422), or
   has answered 500 to it eight times, and between any two of these answers another delivery began and
   succeeded or, if there was none, a probe. Then the state is reported as errored, once, with that
   reason. If the outcome was an error, its message is kept without the traceback.
   So no outage turns an outcome into an error: nothing gets through then. A 500 that is not the state
   manager's own JSON is the answer of a proxy, and counts as an outage.
7. On a native link a busy runtime claims with the requests that report. A step of a chain takes one request,
   and one commit creates the states that follow and claims them. How much each request claims, and when the
   poller leaves that to reports, is decided in one place (``planner``). The states that a report brings after
   a request to stop are released at once.
8. Workers run short states one after another without a step of the loop, together for ``worker.TURN``.

How a stop works
================

Requests (``stop``) come from anywhere and at any time: ``Runtime.stop()`` in another thread, a signal handler
in the middle of node code, a command of the state manager, the cancellation of the scope around
``Runtime.run()``, a defect in one of the loops. Each moves one deadline, the end of the drain, and only to an
earlier moment: the first SIGTERM to ``shutdown_grace`` seconds from now, the second to now. (The third ends
the process: ``entry``.) One task, ``shutdown.run_shutdown``, waits for the first request and then goes
through the phases. Nothing else decides what is cancelled when.

::

    phase       what runs on                           what ends the phase            at most
    ---------   ------------------------------------   ----------------------------   ---------
    RUNNING     everything                             the first request              -
    DRAINING    running nodes, deliveries, the claim   nothing is held any more,      GRACE
                in flight; buffered states are         or the end of the drain
                released
    CANCELLING  the clean-up of cancelled nodes,       nothing can bring an outcome   CLEAN_UP
                deliveries                             any more
    FLUSHING    deliveries: repeated at once, not      nothing is held any more       FLUSH
                when the server asked for
    (closing)   requests hang up; then connections,    all are closed                 HANG_UP,
                asyncio thread, outbox and heartbeat                                  CLOSE
    STOPPED     nothing                            the process ends               EXIT

The seconds are in ``_shared.deadlines``, and nowhere else; a test adds them up. A request without time for
a drain (a cancelled scope, a defect) goes from RUNNING to CANCELLING; a drain after which nothing runs
skips CANCELLING. The states that are still held after FLUSHING are written off: each is logged by its id as
in the outbox, of unknown fate, or abandoned, and counts for exit code 75.

1. Everything of the engine runs within one shield (``Runtime._shielded``), so that a cancellation from
   outside reaches only the watcher, which turns it into a request. That shield is the only one without a
   deadline: the shutdown bounds every step within it but one, the end of a node that shields itself (3).
2. These also shield themselves, each with a deadline: a claim in flight, since its answer names states that
   would be lost (``Link.settle_by``: until the end of the flush); a cancelled asyncio node, until CLEAN_UP is
   over; the end of a worker process that was killed, for 1 s; a request that hangs up, for HANG_UP; the last
   heartbeat and each closing, for CLOSE.
   ``trio.Cancelled`` never becomes an outcome: a node that was cancelled is released, unless it returned a
   value all the same.
3. A node that does not end is given up at the end of CLEAN_UP: its state is released. In a thread or in the
   asyncio loop its code goes on and is stuck. On the Trio loop nothing can end it while it shields itself, as
   ``await anyio.to_thread.run_sync(f)`` does, or blocks the loop. In a process that belongs to the runtime
   (``start()`` in the main thread, every command) ``watchdog`` ends the process then, within EXIT: it logs
   what is held and exits with code 75. Elsewhere the process is the application's, and ``run()`` waits.
4. The loops (poller, workers, reporter, heartbeat) run under ``Stop.guard``: one that fails starts a stop
   instead of cancelling the others, and its error is raised at the end. A Ctrl-C is never raised in one
   (``enable_ki_protection``): between the answer to a claim and the ledger it would lose the claim.
5. The heartbeat ends after the last delivery, since a state is held until it is delivered.
"""
