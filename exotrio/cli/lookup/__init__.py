"""Finding what a command is for: by name, by id or by the beginning of an id, and in lists.

``resources`` finds graphs, runs, nodes and states, ``runtimes`` runtimes; each error says what was probably
meant. ``lists`` reads pages of runs and states. All of it works at a state manager that speaks only v0, too.
"""
