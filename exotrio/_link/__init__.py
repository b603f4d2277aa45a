"""The link: how a runtime works with a state manager.

::

    poller ---- claim ---->                  +-- v0 ------ any state manager
    worker ---- secrets -->  port -- auto ---+
    reporter -- report -->   (Link)          +-- native -- ours: leases, batches, long poll
                                                   |
    heartbeat ------------>                        +-- batches

- ``port``: the protocol ``Link``, and the values that pass through it. Everything above ``_link``
  knows only these, ``outcomes``, and ``auto.AutoLink``, which the engine makes.
- ``auto``: the link that finds out what the server is (``_http/discovery`` knows how) and uses the
  adapter that fits, also after the server was replaced.
- ``v0`` and ``native``: the two adapters; ``batches`` sends the batches of the native one.
- ``outcomes``: the one form of an outcome outside this process; the outbox of the runtime and the spans of
  executions use it, too.

A link does not know workers, channels or phases. It repeats nothing that its callers can repeat: it
returns the fate of each item (``Fate``), and the poller and the reporter decide.

Rules
-----

1. A claim is settled before ``trio.Cancelled`` leaves it: the states that it took are released, or logged.
   On v0 only the answer names the states, so the request is shielded until the answer is there; a native
   claim has an id, by which it is released without its answer.
2. A lost answer to a v0 claim is counted (``lost_claims``) and logged: no runtime knows of the states, which
   stay QUEUED.
3. On v0, ``re-enqueue-after`` acts on any state, also on one that ended. So a release or a requeue is sent
   once, and never after a report whose fate is unknown (``Fate.UNKNOWN`` otherwise). Reports may be repeated.
4. On the native API, tokens guard reports and releases: both may be repeated.
   A claim that travels with reports (``exchange``) is sent once: if its answer is lost, its id is released.
5. A refusal that would end a report or a release counts only if the server, once it is identified again,
   repeats it: a gateway without a route, or another application on the port, refuses everything.
6. One item that cannot be delivered must not cost others their delivery: a batch that is refused as a whole
   is halved until the item at fault is alone. In an outage it is not halved. The same applies to an item with
   which the state manager fails (500, in its own JSON); ``probe`` finds out whether it fails with
   everything.
7. Every shield has a deadline, which only becomes earlier.
"""
