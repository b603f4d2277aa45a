"""Runs and their states: starting, following, showing; runtimes that drain.

``local`` is the command ``run``: a run in this process. ``start`` starts one elsewhere and ``follow`` follows
it; ``result`` prints what came out. ``state_view`` shows one state, ``drain`` follows draining runtimes.
"""
