"""How many connections a server may have open: half as many as this process may open files."""

from __future__ import annotations

import resource
from contextlib import suppress

MOST = 4_000
"""Connections. One that waits at the server costs up to 40 kB."""


def most_connections() -> int:
    """Raise the limit on this process's open files as far as that helps, and return what it allows.

    A runtime keeps one connection for its polls and one for its heartbeats.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MOST if hard == resource.RLIM_INFINITY else min(hard, 2 * MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return MOST if soft == resource.RLIM_INFINITY else min(MOST, soft // 2)
