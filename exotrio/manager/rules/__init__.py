"""The rules of graphs. Pure: no database, no clock, no network; the command line uses them, too.

================  =================================================================================
``template``      ``Template``: a graph that passed every rule, compiled, with its placeholders
``edges``         who comes before and after whom, and what of that is forbidden
``registered``    whether a graph can run with the nodes that are registered
``problems``      what is wrong, as values: ``Problem(text, node, field)``
``errors``        ``Refused``: how a use case refuses a request
================  =================================================================================
"""
