"""What the command ``dev`` does. Other packages import only ``session`` and ``announcer.FirstRun``.

Theory of operation:

* The state manager runs in the process of ``dev``. The user's code is never loaded there: it runs in a child
  process, and each reload starts a new one. So the port, sign-ins and open pages outlive a reload, and code
  that crashes the interpreter is one line on the screen.
* ``session`` runs one ``Child`` (``cli.file_process``) after another. Before a reload the old one drains. If
  the changed file cannot be compiled, the runtime does not drain and continues with the old code. If loading
  fails, or a graph is invalid, ``dev`` prints that and waits for the next change.
* A child always ends: after an order to end it is killed when its time is over, and when ``dev`` has ended
  it drains and exits by itself (``cli.file_process``, ``cli.parent_command``).
* ``watcher`` decides whether the code has changed; ``announcer`` declares the graphs and prints what happens
  to the runs; ``messages`` holds the texts.
"""
