"""What a Host header says, and which hosts only this machine can reach. Pure."""

from __future__ import annotations

import ipaddress

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server that binds ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def host_name(host: str) -> str:
    """Return the name in a Host header, in lower case and without its port."""
    name, colon, port = host.rpartition(":")
    # A colon inside brackets belongs to an IPv6 address, not to a port.
    if not colon or not (port.isdigit() or port == "") or host.endswith("]"):
        name = host
    return name.lower()


def loopback_names(host: str) -> set[str]:
    """Return the Host header values under which a server on a loopback address is called."""
    # One that is bound to 127.0.0.2, say, is called by that address.
    return {*LOOPBACK_HOSTS, f"[{host}]" if ":" in host else host}
