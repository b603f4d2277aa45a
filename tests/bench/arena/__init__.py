"""``python -m tests.bench arena [CELL ...] [--peers] [--scale S]``: jobs on PostgreSQL, faults and load.

The cells of hardbyte's postgresql-job-queue-benchmarking, which measured eight systems, rebuilt for exotrio
and, with ``--peers``, PgQueuer and Oban in the same run: each job has a payload of 256 bytes and takes 1 ms;
a system is one process, or two, that submits the jobs and runs them, and has to end within 5 s of SIGTERM.
The journals of the processes say what was submitted and what was done, how often, and when.

``cells`` has the scenarios, ``faults`` what happens in them, ``running`` the phases, ``replicas`` the
processes, ``journal`` what they wrote; ``tests.bench.adapters`` the systems.
"""
