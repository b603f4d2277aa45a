"""What the command ``dev`` does. Other packages import only ``session`` and ``announcer.FirstRun``.

Theory of operation:

* The state manager runs in the process of ``dev``. The user's code is never loaded there: it runs in a child
  process, and each reload starts a new one. So the port, sign-ins and open pages outlive a reload, and code
  that crashes the interpreter is one line on the screen.
* ``session`` runs the children one after another. Before a reload the old one drains. A file that cannot be
  compiled drains nothing: the runtime continues with the code as it was. If loading fails, or a graph is
  invalid, that is printed and the next change is waited for.
* ``child`` is the process as ``dev`` sees it, and what it sends; ``child_main`` is what runs in it.
  A child always ends: after an order it is killed when its time is over, and when ``dev`` has ended it drains
  and exits by itself (``cli.runtime_process``, ``cli.parent_command``).
* ``watcher`` decides whether the code has changed; ``announcer`` declares the graphs and prints what happens
  to the runs; ``messages`` holds the texts.
"""
