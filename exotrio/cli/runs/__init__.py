"""Runs: starting and following them, and printing their results.

``local`` is the command ``run``: a run in this process. ``remote`` starts one that runtimes elsewhere
execute, after checking its inputs and store, and follows it. Both print it with ``result``. ``each`` starts a
run for each line of a file. SIGINT and SIGTERM never lose a run: the command that continues it, or follows it
again, is printed.
"""
