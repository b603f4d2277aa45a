"""What ``worker --processes N`` does. Import ``supervisor`` and ``outboxes`` from here, and ``work``
in a child.

Theory of operation:

* The parent never loads the user's code: nothing that a node does can keep it from its children.
  ``supervisor`` starts them as processes of ``python -m exotrio worker ... --child``, replaces those that die
  and ends all of them before it ends. The first one starts alone, so that an error in the code is printed
  once.
* ``child`` is a process as the parent sees it, and what it reports; ``work`` is what runs in it.
* A signal to the parent becomes an order to every child, so they drain at the same time, within one grace.
  Each is in a separate process group: a Ctrl-C at the terminal reaches only the parent, and counts once. If a
  service manager (systemd) sends a signal to every process, each child counts it; the order that arrives as
  well adds nothing.
* ``health`` queries the children at each request to the health port. ``totals`` adds their metrics up,
including
  those of processes that ended.
* ``outboxes``: each process has its own outbox, and what an absent process left in one is delivered, too.
"""
