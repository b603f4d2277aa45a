"""Run the node of a claimed state, in this process or another one, and turn what it does into an outcome.

::

    executor        Executor: runs an execution and returns its report: an outcome, or a release
    node_task       NodeTask: the task that a worker runs its nodes in, until a node spoils it
    handle          Execution: one run of the node of a claim, as the rest of the runtime sees it; and which
                    state a log line belongs to
    results         from texts to the instance of a node; from what that returned or raised to the outcome
    error_text      the text of its error: own frames, bounded, without secrets
    output          the lines that one execution logs and prints: the first and the last
    capture         collects these lines in this process, and passes them on
    spans           the span of an execution, if the program traces
    backends        what runs nodes: the Trio loop, a thread, an asyncio loop
    processes       the fourth backend: a pool of worker processes
    process_worker  the other end: a worker process, which runs one node after the other
    messages        the messages of these two; ``_children`` carries them
    threads         threads for plain ``def`` nodes, and for the default executor of asyncio; the number
                    of stuck nodes, which still run although nothing waits for them, and its limit
    asyncio_thread  one asyncio loop in a thread, for nodes with ``runs_in = "asyncio"``
    forks           ends a child process that a node forked, where it would go on as a copy of this process
    loop_watch      says when a node blocks a loop, Trio's or asyncio's, and where

``_runtime`` uses ``executor``, ``node_task``, ``handle``, ``capture``, ``spans``, ``loop_watch`` and
``error_text``; ``testing`` runs single nodes with ``executor`` and ``handle``, and has an asyncio loop on the
base of that in ``asyncio_thread``; the formatters of the command line read the context variables of
``handle``, and its display of progress uses ``capture``.

Rules that hold:

1. Nothing that a node raises leaves ``Executor.report_of``, with two exceptions: a ``trio.Cancelled`` that
   came from outside, and a KeyboardInterrupt that Trio raised in the node and that is meant for the
   application.
2. Node code may be broken. What its exceptions define may raise. The task and the nursery that a node
   runs in are used for another node only if it left them as they were: what it leaves open ends with it.
3. The handle decides why a node ended: the first reason to cancel it stays, and the clock decides
   whether its timeout came first. A node that returns a value although it was cancelled has an outcome.
4. Threads and the asyncio loop are daemons, and nothing waits for them without a deadline. A worker process
   is killed where a thread would be stuck, and never outlives the runtime.
"""
