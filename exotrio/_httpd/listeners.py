"""Listening sockets, bound to each address of a host and closed in forked children; and names of hosts."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address
from socket import gaierror
from weakref import WeakSet

import trio

from exotrio.errors import ConfigurationError, PortBusy

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})

_listeners: WeakSet[trio.SocketListener] = WeakSet()


def _leave_to_parent() -> None:
    """Close the ports in a forked child (of a node, for example), which may outlive the server."""
    for listener in _listeners:
        # Detached: when the socket object is collected, the descriptor may belong to another file.
        if (fd := listener.socket.detach()) >= 0:
            os.close(fd)


os.register_at_fork(after_in_child=_leave_to_parent)


async def open_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """Bind and listen on every address of a host.

    Args:
        host: Address or name of an interface of this machine. If a name has several addresses, those that
            this machine lacks are left out (``localhost`` without IPv6), as long as one remains.
        port: 0 to let the kernel choose one, the same for all addresses.

    Returns:
        Listeners that already queue connections; ``serve_http`` closes them.

    Raises:
        PortBusy: another process listens there.
        ConfigurationError: the address cannot be used for another reason.
    """
    where = f"configured to listen on {host!r}, port {port}"
    if not 0 <= port <= 65535:
        raise ConfigurationError(f"{port} is not a port", where=where, fix="choose one from 0 to 65535")
    try:
        addresses = await trio.socket.getaddrinfo(
            host, port, type=trio.socket.SOCK_STREAM, flags=trio.socket.AI_PASSIVE
        )
    except (gaierror, UnicodeError) as error:
        raise ConfigurationError(
            f"the host {host!r} has no address: {error}",
            where=where,
            fix="use an address of this machine, such as 127.0.0.1",
        ) from error
    listeners: list[trio.SocketListener] = []
    absent: OSError | None = None
    try:
        for address in dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in addresses):
            try:
                listeners += await trio.open_tcp_listeners(port, host=address)
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                absent = error
            else:
                port = port or int(listeners[0].socket.getsockname()[1])
        if not listeners and absent is not None:
            raise absent
    except BaseException as error:
        for listener in listeners:
            listener.socket.close()
        if isinstance(error, OSError):
            raise _bind_error(error, port, where) from error
        raise
    _listeners.update(listeners)
    return listeners


def _bind_error(error: OSError, port: int, where: str) -> PortBusy | ConfigurationError:
    if error.errno == errno.EADDRINUSE:
        return PortBusy(
            f"port {port} is in use by another process",
            where=where,
            fix="choose another port, or 0 for any free one; or stop what listens there",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return ConfigurationError(
            f"this user may not listen on port {port}", where=where, fix="choose a port above 1023"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return ConfigurationError(
            "the host is not an address of this machine",
            where=where,
            fix="use 127.0.0.1 for this machine only, 0.0.0.0 for all interfaces",
        )
    return ConfigurationError(f"cannot listen: {error.strerror or error}", where=where)


def urls(listeners: Sequence[trio.SocketListener]) -> list[str]:
    """Return the bound addresses as URLs, such as ``http://127.0.0.1:8000`` or ``http://[::1]:8000``."""
    return [_url(*listener.socket.getsockname()[:2]) for listener in listeners]


def _url(host: str, port: int) -> str:
    if isinstance(ip_address(host), IPv6Address):
        # The % before a zone must itself be escaped in a URL (RFC 6874).
        host = f"[{host.replace('%', '%25')}]"
    return f"http://{host}:{port}"


def host_name(host: str) -> str:
    """Return the name in a Host header, in lower case and without its port."""
    name, colon, port = host.rpartition(":")
    # A colon inside brackets belongs to an IPv6 address, not to a port.
    if not colon or not (port.isdigit() or port == "") or host.endswith("]"):
        name = host
    return name.lower()


def loopback_names(host: str) -> set[str]:
    """Return the Host header values under which a server on a loopback address is called."""
    # A server on 127.0.0.2, for example, is called by that address.
    return {*LOOPBACK_HOSTS, f"[{host}]" if ":" in host else host}
