"""The server at a URI: whether it can be reached, its kind, how fast it answers, and its clock."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from exotrio._wire.vocabulary import NATIVE_ROOT, NATIVE_VERSION, v0_path
from exotrio.cli.doctor.probe import Probe, Reply, StepFailed

SAMPLES = 5
"""Requests that are timed."""


class Kind(StrEnum):
    NATIVE = "exotrio, native"
    V0 = "speaks only v0"
    OTHER = "no state manager"


@dataclass(frozen=True, slots=True)
class Clock:
    """The clock of a server, compared with the one of this machine.

    Attributes:
        ahead: Seconds by which the server's clock is ahead; negative if it is behind.
        uncertain: Seconds by which ``ahead`` may be wrong, in both directions.
    """

    ahead: float
    uncertain: float


@dataclass(slots=True, kw_only=True)
class Server:
    """What is known about a server.

    Attributes:
        steps: As those of ``Probe``.
        times: Seconds of the answers that were timed, sorted.
    """

    steps: list[tuple[str, str, float]]
    failed: StepFailed | None = None
    kind: Kind | None = None
    about: str = ""
    key_refused: str | None = None
    times: list[float] = field(default_factory=list)
    clock: Clock | None = None
    namespaces: list[str] | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.times)


async def examine_server(uri: str, key: str | None, namespace: str | None) -> Server:
    """Examine the server at a valid URI. Without a key, send only requests that need none.

    Cancellation:
        Safe; nothing changes at the server.
    """
    probe = Probe(uri, key)
    server = Server(steps=probe.steps)
    try:
        await probe.connect()
        await probe.get("/health", with_key=False)  # connects, so that the others are timed without that
        server.times = sorted([(await probe.get("/health", with_key=False)).took for _ in range(SAMPLES)])
        if key is not None:
            await _recognize(server, probe, namespace or "default")
    except StepFailed as error:
        server.failed = error
    finally:
        await probe.aclose()
    return server


async def _recognize(server: Server, probe: Probe, namespace: str) -> None:
    reply = await probe.get(NATIVE_ROOT)
    body = _json(reply)
    if reply.status in (401, 403):
        detail = body.get("detail") if isinstance(body, dict) else None
        server.key_refused = f"answered {reply.status}" + (f": {detail}" if isinstance(detail, str) else "")
    elif reply.status == 200 and isinstance(body, dict) and isinstance(body.get("version"), str):
        server.kind = Kind.NATIVE
        if body["version"] != NATIVE_VERSION:
            server.about = (
                f"its native API is version {body['version']}, and this exotrio knows {NATIVE_VERSION}"
            )
    elif reply.status == 404 and body is not None:
        await _recognize_v0(server, probe, namespace)
    else:
        server.kind, server.about = Kind.OTHER, _shown(reply)


async def _recognize_v0(server: Server, probe: Probe, namespace: str) -> None:
    nodes = await probe.get(v0_path(namespace, "nodes", ""))
    body = _json(nodes)
    if nodes.status in (401, 403):
        server.key_refused = f"answered {nodes.status}"
    elif nodes.status != 200 or not isinstance(body, dict) or not isinstance(body.get("nodes"), list):
        server.kind, server.about = Kind.OTHER, f"{_shown(nodes)} where v0 lists its nodes"
    else:
        server.kind = Kind.V0


def _json(reply: Reply) -> Any:
    try:
        return json.loads(reply.body)
    except ValueError:
        return None


def _shown(reply: Reply) -> str:
    content_type = reply.headers.get("content-type", "no content type").partition(";")[0]
    redirect = f", a redirect to {reply.headers['location'][:200]}" if "location" in reply.headers else ""
    return f"it answered {reply.status} with {content_type}{redirect}"
