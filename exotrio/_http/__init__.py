"""HTTP requests to a state manager, for the links of runtimes and for the client.

=============  ===========================================================================================
endpoint       which state manager, with which key: from arguments, a command, the environment, ``.env``
client         ``HttpClient``: one exchange, its time limit, its errors
exchange       a request and its answer, as client and senders pass them to each other
network        a sender: connections of one event loop, by h11
given          a sender: through a transport of httpx that the caller passed
connections    the sender of each event loop, its name lookups, and when it is closed
event_loop     the functions of Trio or asyncio that an exchange needs
response       what a response means: a JSON answer or an error
discovery      what a state manager is: ours or another that speaks v0
=============  ===========================================================================================

Rules:

- A failed exchange raises a ``ManagerError``. ``ManagerUnavailable.sent`` is False only if nothing of the
  request left, and only then may the caller repeat everything.
- Nothing is repeated and no redirect is followed here.
- httpx is used for transports that callers pass, and loaded only then (``given``). Over a network it and
  httpcore took 60 % of the processor time of a request; ``manager.inside`` is a sender without HTTP.
- Each exchange has a time limit; closing connections is shielded, for ``deadlines.HANG_UP``.
- Each exchange has a connection for itself, and ``connections.Pool.limiter`` bounds their number.
- No text shows a key or a password: they are neither in ``Endpoint.shown`` nor in its ``repr``.
"""
