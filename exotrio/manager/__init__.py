"""The state manager: embedded in a Trio app, or as a separate server.

``embedded`` provides a transport for ``Runtime`` and ``StateManager`` in the same process, without a
socket. ``serve`` listens on a port. Both run the ASGI application of ``create_app``.

==============  ===================================================================================
``rules``       what graphs must obey; pure
``store``       the database: transactions, commits, an engine each for SQLite and PostgreSQL
``engine``      use cases that write
``queries``     use cases that read
``security``    access: root key, named keys, sessions, Host header; the keys for stored secrets
``database``    which database is used, and where generated keys are kept
``background``  what no request asks for: ending leases, triggering by schedules, deleting old runs
``service``     what API and dashboard share: ``open_service``
``web``         the dashboard
``api``         the HTTP API: v0, native, probes, metrics
``app``         ``create_app``: API and dashboard as one ASGI application
``inside``      the transport to that API for clients in the same process
``serving``     ``embedded``, ``serve``
``moving``      a database with runs in flight, from SQLite to PostgreSQL
==============  ===================================================================================

Each may import what stands above it, and ``exotrio._wire``, ``exotrio.graph``, ``exotrio._httpd``; nothing
here imports ``exotrio._runtime``. From outside import the names below.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exotrio._httpd import Limits as Limits
    from exotrio.manager.app import create_app as create_app
    from exotrio.manager.service import Service as Service
    from exotrio.manager.service import open_service as open_service
    from exotrio.manager.serving import embedded as embedded
    from exotrio.manager.serving import serve as serve
else:
    # Loaded when they are first used: commands that need a part of this package do not load the rest.
    _HOMES = {
        "Limits": "exotrio._httpd",
        "create_app": "exotrio.manager.app",
        "Service": "exotrio.manager.service",
        "open_service": "exotrio.manager.service",
        "embedded": "exotrio.manager.serving",
        "serve": "exotrio.manager.serving",
    }

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'exotrio.manager' has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value


__all__ = ["Limits", "Service", "create_app", "embedded", "open_service", "serve"]
