"""What ``worker --processes N`` does. Import ``supervisor`` and ``outboxes`` from here, and ``work``
in a child.

Theory of operation:

* The parent never loads the user's code: nothing that a node does can keep it from its children.
  ``supervisor`` starts them as processes of ``python -m exotrio worker ... --child``, replaces those that die
  and ends all of them with their parent. The first one starts alone, so that an error in the code is printed
  once.
* ``child`` is a process seen from the parent, and what it reports; ``work`` is what runs in it.
* A signal to the parent becomes an order to every child, so they drain at the same time, within one grace.
  They are in process groups of their own: a Ctrl-C at the terminal reaches only the parent, and counts once.
  A signal to every process of a service (systemd) is counted by each for itself; the order that arrives
  beside it adds nothing.
* ``health`` asks the children whenever somebody asks the port. ``totals`` adds their metrics up, those of
  processes that ended included.
* ``outboxes``: each process has an outbox of its own, and what an absent one left is delivered, too.
"""
