"""Which kind of state manager is there: ours or another."""

from __future__ import annotations

from exotrio._errors import ManagerUnavailable, NotFound, RequestRefused
from exotrio._http_client import HttpClient
from exotrio._wire import NATIVE_ROOT
from exotrio._wire_native import Discovery

DISCOVERY_TIMEOUT = 10.0


async def discover(http: HttpClient) -> Discovery | None:
    """Ask the state manager what it is.

    Returns:
        What our server says of itself, or None for any other v0 server: only a JSON 404 says that.

    Raises:
        ManagerUnavailable: neither is known yet; ask again.
        KeyRefused: the key is wrong.

    Cancellation:
        Safe; nothing changes at the server.
    """
    try:
        return await http.fetch(Discovery, "GET", NATIVE_ROOT, timeout=DISCOVERY_TIMEOUT)
    except NotFound:
        return None
    except RequestRefused as error:
        # A proxy that is being set up answers anything: deciding for v0 now would stick.
        raise ManagerUnavailable(error.what, status=error.status, where=error.where, fix=error.fix) from error
