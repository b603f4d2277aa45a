"""What ``worker --processes N`` does. Import ``supervisor`` and ``outboxes`` from here, and ``work``
in a child.

Theory of operation:

* The parent never loads the user's code, so no node can block it.
  ``supervisor`` starts them as processes of ``python -m exotrio worker ... --child``, replaces those that die
  and ends all of them before it ends. The first one starts alone, so that an error in the code is printed
  once.
* ``child`` represents a process in the parent, and has the messages of both; ``work`` runs in the process.
* A signal to the parent becomes an order to every child, so they drain at the same time, within one grace.
  Each is in a separate process group: a Ctrl-C at the terminal reaches only the parent, and counts once. If a
  service manager (systemd) sends a signal to every process, each child handles it; the order from the parent,
  which arrives too, has no further effect.
* ``health`` queries the children at each request to the health port, and adds their metrics up, including
  those of processes that ended.
* ``outboxes``: each process has its own outbox. Outcomes in the outbox of a process that is not started any
  more are delivered, too.
"""
