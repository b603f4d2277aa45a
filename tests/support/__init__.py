"""What several test files use. ``tests/README.md`` lists all of it; this says which state manager to take.

Take the first that is real enough for what a test is about:

1. ``run_node``, ``run_graph`` and ``explore`` of ``exotrio.testing``: a real state manager in memory and a
   real runtime, for a node or a graph as users test it.
2. ``manager.open_manager``: a real state manager in this process, whose clock a test can set. Behind a
   transport that fails, as in ``chaos/test_requests``, for what a runtime does when requests fail.
3. ``processes``: real processes of ``python -m exotrio``, for signals, files, sockets and exit codes;
   ``postgres`` for real servers of PostgreSQL.
4. ``doubles.NativeServer`` and ``V0Server``: for answers that the real one does not give (wrong leases,
   commands, states that nothing created), and to count requests. They know no rules of graphs.
5. ``stock.Stock``: Exosphere's own server. Its quirks are the opposite of our rules (it revives finished
   states, answers 500 to malformed ids, creates next states after its answer), so ours cannot play it.
6. ``client_double.Server`` and ``http_doubles``: one response for each request, for the client and for HTTP.

``property/model`` is not a double but an oracle: it shares no code with the state manager.
"""
