"""Runs: starting, following, and printing what came out.

``local`` is the command ``run``: a run in this process. ``start`` starts one elsewhere, after checking its
inputs and store, and ``follow`` follows it until it ends. Both print it with ``result``. SIGINT and SIGTERM
never lose a run: the command that continues it, or follows it again, is printed.
"""
