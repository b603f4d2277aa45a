"""The rules of graphs. Pure: no database, no clock, no network; the command line uses them, too.

================  =================================================================================
``template``      ``Template``: a graph that obeys every rule, compiled, with its placeholders
``edges``         which nodes come before and after which, and what is forbidden
``branches``      which edges with conditions are taken, and what is wrong with them
``registered``    whether a graph can run with the registered nodes
``children``      whether places that run graphs fit these
``access``        who may do what: permissions, scopes of keys, callers
``problems``      what is wrong with a graph, as values: ``Problem(text, node, field)``
``lineage``       what a state gets from those before it: united targets, path through fan-outs, trace
``retry_delay``   when a failed state is tried again
``unreached``     why a node of a graph has no state in a run
``findings``      what needs attention, by an overview and a checkup
``errors``        the exceptions with which a request is refused
================  =================================================================================
"""
