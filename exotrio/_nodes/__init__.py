"""Node classes, which users write, and how an execution ends. Nothing here runs a node.

- ``base``: ``BaseNode``, and what a running node sees of its runtime (``stopping``, ``progress``);
- ``checks``: what makes a class unusable as a node, and the declaration of a usable one;
- ``outcome``: how an execution ended, as data (``_execution`` makes it, ``_link`` encodes it), and the
  signals that a node raises to end in another way than with outputs;
- ``calls``: the graphs that a node calls, as its children;
- ``progress``: the progress that a running node reports;
- ``importing``: how another process finds a node class.

Rules: all problems of all classes are found at once, before anything is claimed; no message contains the
value of a field, which may be secret; ``base`` imports neither trio nor anyio, so that a file of nodes loads
fast.
"""
