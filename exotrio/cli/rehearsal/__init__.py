"""What the command ``rehearse`` does: it stops real processes at random moments of real runs, and compares.

Theory of operation:

* The state managers run in the process of the command, each with a SQLite file in a temporary folder, served
  on 127.0.0.1. The user's code runs in child processes only, as in production.
* A *trial* is one run of the graph with one fault: a signal to the process that runs it. Which signal, and
  when, depends only on the seed and the number of the trial. Then a new process takes over. Before the
  trials, two runs without a fault show how the graph ends, how long it takes, and which outputs differ from
  run to run anyway.
* Trials run in ``LANES`` at once, since most of their time is waiting. Each lane has its own state manager
  and processes, so that no process runs a state of another lane's trial.
* The processes report when each execution begins and ends, before a node's first line and after its last. A
  message that is in the socket outlives the process that sent it. So the *journal* is complete also after
  SIGKILL, and nodes need to do nothing for it.

``session`` is the command; ``lane`` makes the trials; ``trial`` has their values: plan, journal, what broke;
``report`` adds them up and prints them.
"""
