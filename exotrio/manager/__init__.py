"""The state manager: embedded in a Trio app, or as a server of its own.

``embedded`` gives a transport for ``Runtime`` and ``StateManager`` in the same process, without a
socket. ``serve`` listens on a port. ``create_app`` is the ASGI application behind both.
"""

from __future__ import annotations

from exotrio._httpd import Limits
from exotrio.manager.api.app import create_app
from exotrio.manager.service import Service, open_service
from exotrio.manager.serving import embedded, serve

__all__ = ["Limits", "Service", "create_app", "embedded", "open_service", "serve"]
