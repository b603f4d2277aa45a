"""The rules of graphs. Pure: no database, no clock, no network; the command line uses them, too.

================  =================================================================================
``template``      ``Template``: a graph that passed every rule, compiled, with its placeholders
``edges``         who comes before and after whom, and what of that is forbidden
``registered``    whether a graph can run with the nodes that are registered
``problems``      what is wrong, as values: ``Problem(text, node, field)``
``lineage``       where a state stands: the united targets above it, its path through the fan-outs
``retry_delay``   when a failed state is tried again
``unreached``     why a node of a graph has no state in a run
``traces``        which executions the next one of a state is told of, as text
``findings``      what needs attention, by an overview and a checkup
``errors``        ``Refused``: how a use case refuses a request
================  =================================================================================
"""
