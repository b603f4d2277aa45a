"""HTTP requests to a state manager, for the links of runtimes and for the client.

=============  ===========================================================================================
endpoint       which state manager, with which key: from arguments, a command, the environment, ``.env``
client         ``HttpClient``: one exchange, its time limit, its errors
connections    the connections of each event loop, their name lookups, and when they are closed
event_loop     the functions of Trio or asyncio that an exchange needs
body           bodies of requests and responses
response       what a response means: a JSON answer or an error
discovery      what a state manager is: ours or another that speaks v0
=============  ===========================================================================================

Rules:

- A failed exchange raises a ``ManagerError``. ``ManagerUnavailable.sent`` is False only if nothing of the
  request left, and only then may the caller repeat everything.
- Nothing is repeated and no redirect is followed here.
- httpx is imported within functions: a file of nodes must not wait for it. So ``body``, which needs its
  classes, is imported late; that module imports it first, without its command line (``_util.slim_httpx``).
- Each exchange has a time limit; closing connections is shielded, for ``deadlines.HANG_UP``.
- Requests wait before httpcore's pool (``connections.Pool.limiter``), never in it: it loses connections for
  good when waiting requests are cancelled.
- No text shows a key or a password: they are neither in ``Endpoint.shown`` nor in its ``repr``.
"""
