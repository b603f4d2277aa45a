"""The arguments of a runtime, checked: every problem of one call at once."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from exotrio._http.endpoint import Endpoint, resolve_endpoint, version_problems
from exotrio._nodes.base import BaseNode
from exotrio._nodes.checks import declare, node_problems
from exotrio.errors import ConfigurationError
from exotrio.graph import MAX_NAME, check_name

if TYPE_CHECKING:
    import httpx

    from exotrio._wire.v0 import NodeDeclaration

LinkKind = Literal["auto", "v0", "native"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a runtime was built with. See ``Runtime`` for the meanings.

    Attributes:
        endpoint: The state manager; None if a command has to supply it later.
        endpoint_problems: Why there is none.
        nodes: Registered name to node class.
        declarations: The nodes as they are registered.
        worker_id: Names this runtime to a state manager with leases.
    """

    namespace: str
    name: str
    nodes: Mapping[str, type[BaseNode]]
    declarations: tuple[NodeDeclaration, ...]
    endpoint: Endpoint | None
    endpoint_problems: Sequence[str]
    batch_size: int
    workers: int
    state_manager_version: str
    poll_interval: float
    shutdown_grace: float
    link: LinkKind
    outbox: Path | None
    worker_id: str


def check_options(
    *,
    namespace: Any,
    name: Any,
    nodes: Any,
    state_manager_uri: Any,
    key: Any,
    batch_size: Any,
    workers: Any,
    state_manager_version: Any,
    poll_interval: Any,
    shutdown_grace: Any,
    transport: httpx.AsyncBaseTransport | None,
    link: Any,
    outbox: Any,
    endpoint_may_come: bool,
) -> Options:
    """Return the options if all of them are usable.

    Args:
        endpoint_may_come: A command may supply the state manager later: neither URI nor key is needed.

    Raises:
        ConfigurationError: Some are not; ``problems`` names each.
    """
    problems = [*_name_problems("namespace", namespace), *_name_problems("name", name)]
    classes: tuple[Any, ...] = ()
    if isinstance(nodes, Iterable) and not isinstance(nodes, str | bytes | type):
        classes = tuple(nodes)
        problems += node_problems(classes) if classes else ["nodes is empty: pass at least one node class"]
    else:
        problems.append(f"nodes must be a list of node classes, not {_kind(nodes)}")
    problems += _count_problems("batch_size", batch_size)
    problems += _count_problems("workers", workers)
    problems += seconds_problems("poll_interval", poll_interval, zero=False)
    problems += seconds_problems("shutdown_grace", shutdown_grace)
    problems += version_problems(state_manager_version)
    if link not in ("auto", "v0", "native"):
        problems.append(f"link is {link!r}: use 'auto', 'v0' or 'native'")
    if outbox is not None and not (isinstance(outbox, str | os.PathLike) and os.fspath(outbox)):
        problems.append(f"outbox must be the path of a file, not {_kind(outbox)}")
    endpoint: Endpoint | None = None
    endpoint_problems: list[str] = []
    for title, value in (("state_manager_uri", state_manager_uri), ("key", key)):
        if not isinstance(value, str | None):
            problems.append(f"{title} must be text, not {_kind(value)}")
    if isinstance(state_manager_uri, str | None) and isinstance(key, str | None):
        endpoint, endpoint_problems = resolve_endpoint(state_manager_uri, key, transport)
        if not endpoint_may_come or transport is not None:
            problems += endpoint_problems
    if problems:
        raise ConfigurationError("the runtime cannot be built", problems)
    return Options(
        namespace=namespace,
        name=name,
        nodes={node.__name__: node for node in classes},
        declarations=tuple(declare(node) for node in classes),
        endpoint=endpoint,
        endpoint_problems=endpoint_problems,
        batch_size=batch_size,
        workers=workers,
        state_manager_version=state_manager_version,
        poll_interval=float(poll_interval),
        shutdown_grace=float(shutdown_grace),
        link=link,
        # Absolute, or a program that changes its directory would start with another file.
        outbox=None if outbox is None else Path(os.path.abspath(outbox)),
        worker_id=f"{name[:60]}@{socket.gethostname()[:100]}:{os.getpid()}:{uuid4().hex[:12]}",
    )


def seconds_problems(title: str, value: Any, *, zero: bool = True) -> list[str]:
    """Return what is wrong with a number of seconds, which may be zero or not."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return [f"{title} must be a number of seconds, not {_kind(value)}"]
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        least = "not below" if zero else "above"
        return [f"{title} is {value}: it must be a finite number of seconds, {least} zero"]
    return []


def _count_problems(title: str, value: Any) -> list[str]:
    if isinstance(value, bool) or not isinstance(value, int):
        return [f"{title} must be a whole number, not {_kind(value)}"]
    return [] if value >= 1 else [f"{title} is {value}: it must be at least 1"]


def _name_problems(title: str, value: Any) -> list[str]:
    if not isinstance(value, str):
        return [f"{title} must be text, not {_kind(value)}"]
    if not value.strip():
        return [f"{title} is blank"]
    try:
        check_name(value)
    except ValueError as error:
        return [f"{title} {value[:MAX_NAME]!r} {error}"]
    return []


def _kind(value: Any) -> str:
    return "None" if value is None else f"{type(value).__name__} {value!r:.80}"
