"""What is at a URI: whether it can be reached, what it is, how fast it answers and what its clock shows."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

from exotrio._wire.vocabulary import NATIVE_ROOT, NATIVE_VERSION, v0_path
from exotrio.cli.doctor.probe import Probe, Reply, StepFailed

SAMPLES = 5
"""Requests that are timed."""
STALE_DATE = 1.0
"""Seconds by which a Date header may be old: servers (uvicorn, nginx) renew it once a second."""


class Kind(StrEnum):
    NATIVE = "exotrio, native"
    OURS_V0 = "exotrio, v0 only"
    STOCK = "Exosphere's own, v0"
    V0 = "v0, of unknown make"
    OTHER = "no state manager"


@dataclass(frozen=True, slots=True)
class Clock:
    """How a clock compares with the one here."""

    ahead: float
    """Seconds; negative if it is behind."""
    uncertain: float
    """Seconds by which this may be wrong, in either direction."""
    source: str


@dataclass(slots=True, kw_only=True)
class Server:
    """What was found out about a state manager."""

    steps: list[tuple[str, str, float]]
    """As those of ``Probe``."""
    failed: StepFailed | None = None
    kind: Kind | None = None
    about: str = ""
    key_refused: str | None = None
    times: list[float] = field(default_factory=list)
    """Seconds of the answers that were timed, sorted."""
    clock: Clock | None = None
    namespaces: list[str] | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.times)


async def examine_server(uri: str, key: str | None, namespace: str | None) -> Server:
    """Find out what is at a valid URI; without a key, only what needs none is asked.

    Cancellation:
        Safe; nothing changes at the server.
    """
    probe = Probe(uri, key)
    server = Server(steps=probe.steps)
    try:
        await probe.resolve()
        samples = [await probe.get("/health", with_key=False) for _ in range(SAMPLES)]
        server.times = sorted(reply.took for reply in samples)
        if key is not None:
            await _find_kind(server, probe, namespace or "default")
        server.clock = read_clock(samples)
        if server.kind not in (None, Kind.OTHER) and namespace is None:
            server.namespaces = _namespaces(await probe.get("/v0/namespaces"))
    except StepFailed as error:
        server.failed = error
    finally:
        await probe.aclose()
    return server


async def _find_kind(server: Server, probe: Probe, namespace: str) -> None:
    found = await probe.get(NATIVE_ROOT)
    body = _json(found)
    if found.status in (401, 403):
        detail = body.get("detail") if isinstance(body, dict) else None
        server.key_refused = f"answered {found.status}" + (f": {detail}" if isinstance(detail, str) else "")
    elif found.status == 200 and isinstance(body, dict) and isinstance(body.get("version"), str):
        server.kind = Kind.NATIVE
        if body["version"] != NATIVE_VERSION:
            server.about = (
                f"its native API is version {body['version']}, and this exotrio knows {NATIVE_VERSION}"
            )
    elif found.status == 404 and body is not None:
        await _find_v0_kind(server, probe, namespace)
    else:
        server.kind, server.about = Kind.OTHER, _shown(found)


async def _find_v0_kind(server: Server, probe: Probe, namespace: str) -> None:
    nodes = await probe.get(v0_path(namespace, "nodes", ""))
    body = _json(nodes)
    if nodes.status in (401, 403):
        server.key_refused = f"answered {nodes.status}"
    elif nodes.status != 200 or not isinstance(body, dict) or not isinstance(body.get("nodes"), list):
        server.kind, server.about = Kind.OTHER, f"{_shown(nodes)} where v0 lists its nodes"
    elif (await probe.get("/livez", with_key=False)).body == b"ok\n":
        server.kind = Kind.OURS_V0
    else:
        server.kind = Kind.V0
        described = _json(await probe.get("/openapi.json", with_key=False))
        info = described.get("info") if isinstance(described, dict) else None
        if isinstance(info, dict) and "exosphere" in str(info.get("title", "")).lower():
            server.kind = Kind.STOCK
            server.about = " ".join(str(info[name]) for name in ("title", "version") if name in info)


def _json(reply: Reply) -> Any:
    try:
        return json.loads(reply.body)
    except ValueError:
        return None


def _shown(reply: Reply) -> str:
    kind = reply.headers.get("content-type", "nothing named").partition(";")[0]
    leads = f", a redirect to {reply.headers['location'][:200]}" if "location" in reply.headers else ""
    return f"it answered {reply.status} with {kind}{leads}"


def _namespaces(reply: Reply) -> list[str] | None:
    body = _json(reply)
    found = body.get("namespaces") if isinstance(body, dict) else None
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else None


def read_clock(samples: list[Reply]) -> Clock | None:
    """Return what the Date headers of answers say about a clock; None if they say nothing.

    A header has a whole second, up to ``STALE_DATE`` old. Each answer was made between its request and its
    arrival, so its second bounds the clock from both sides.
    """
    least, most = float("-inf"), float("inf")
    for reply in samples:
        try:
            second = parsedate_to_datetime(reply.headers.get("date", "")).timestamp()
        except (ValueError, TypeError, OverflowError):
            continue
        least = max(least, second - reply.received)
        most = min(most, second + 1 + STALE_DATE - reply.sent)
    if not -1e12 < least <= most:
        # None tells, or one of the clocks was set meanwhile.
        return None
    return Clock((least + most) / 2, (most - least) / 2, "the Date of its answers")
