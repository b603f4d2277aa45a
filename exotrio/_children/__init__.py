"""Child processes that run the code of users: how they start, what both ends send, and how they end.

``child_process`` is the child as its parent sees it, ``parent_process`` the parent as its child sees it.
Two kinds of child processes are made of these two: those that run single nodes (``_execution.processes``),
and those that run a Runtime for ``dev`` and ``rehearse`` (``cli.file_process``).

Rules that hold for both:

1. Both ends have one socket of a pair that no other process has. A message is a pickled object with its
   length before it: both ends run the same code for the same user. Messages consist of classes of exotrio and
   of built-in types; a class of the user in one would make the parent load the user's code.
2. A child inherits SIGINT, SIGTERM and SIGHUP blocked, and unblocks them once it can handle them.
3. No child outlives its parent. The end of the stream, which is seen on every system, says that the parent
   has ended, even by ``kill -9``. A thread reads the stream, so that code in the main thread does not matter.
   Code that holds the interpreter's lock keeps that thread from running, until it releases it. A process
   that runs single nodes is killed even then, on Linux (``die_with_parent``); one that runs a Runtime is
   not, since it has to drain.
4. The parent asks a child to end by a message, or by ending the stream. A child that has not ended when its
   time is over is killed, with its process group unless that is the group of the parent.
"""
