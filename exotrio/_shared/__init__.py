"""What several packages have to agree on, though none of them imports the others.

- ``deadlines``: the seconds of each step of a runtime's stop, from the signal to the end of the process.
- ``events``: what observers and metrics of a runtime are called with; public in ``exotrio.monitoring``.
- ``settings``: the only reader of exotrio's settings in the environment and ``.env``, besides the command
  line.
- ``garbage``: how rarely a process of exotrio searches for garbage.
- ``database_files``: opening the files of a SQLite database, and finding the process that has it open.
"""
