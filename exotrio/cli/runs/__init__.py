"""Runs: starting and following them, and printing their results.

``local`` is the command ``run``: a run in this process. ``remote`` checks inputs and store, starts a run that
runtimes elsewhere execute, and follows it. Both print its result with ``result``. ``each`` starts a run for
each line of a file. SIGINT and SIGTERM never lose a run: the command that continues it, or follows it again,
is printed.
"""
