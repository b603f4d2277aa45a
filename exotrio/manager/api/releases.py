"""Native routes about releases: which runs in flight new code would break, and which versions are needed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from exotrio._util.words import listed, one_line, plural, shortened
from exotrio._wire.releases import BrokenRuns, NewRelease, ReleaseCheck, VersionList
from exotrio._wire.v0 import NodeDeclaration
from exotrio.errors import DatabaseError
from exotrio.manager.api.routing import NS, READ, Endpoints, get, post
from exotrio.manager.queries.broken_runs import check_registration, check_release
from exotrio.manager.queries.versions import list_versions
from exotrio.manager.rules.access import Caller, Permission
from exotrio.manager.rules.errors import Refused
from exotrio.manager.store.base import Store

logger = logging.getLogger("exotrio.manager")

MAX_WARNED = 3
"""Runs and changes that a warning names."""
MAX_LINE = 2_000
"""Characters of a warning: names of nodes' fields may be as long as a request, and are repeated in it."""


class Releases(Endpoints):
    @get(NS + "/versions", "List versions of code", READ, VersionList)
    async def versions(self, namespace: str) -> object:
        found = await self._store.read_with_deadline(list_versions, namespace)
        return {"versions": [each.model_dump(mode="json") for each in found]}

    @post(NS + "/release/check", "Say which runs in flight a release would break", READ, ReleaseCheck)
    async def check(self, caller: Caller, namespace: str, body: NewRelease) -> object:
        """Runs of other namespaces are left out if the caller may not read them."""
        found = await self._store.read_with_deadline(check_release, namespace, body)
        found.broken = [each for each in found.broken if caller.may(Permission.READ, each.namespace)]
        # As plain data: before pydantic 2.14 a nested model whose build is deferred has no serializer yet.
        return found.model_dump(mode="json")


async def warn_of_broken_runs(
    store: Store, caller: Caller, namespace: str, runtime: str, former: Mapping[str, NodeDeclaration]
) -> str | None:
    """Log which runs in flight break, now that a runtime has replaced these declarations of nodes; return
    what of it may be said to the runtime: runs of its namespace, and of others that its key may read."""
    try:
        found = await store.read_with_deadline(check_registration, namespace, former)
    except (Refused, DatabaseError) as error:
        logger.warning("runs in flight were not compared with the nodes of runtime %s: %s", runtime, error)
        return None
    if not found.runs:
        return None
    nodes = f"the nodes that runtime {runtime} registered in namespace {namespace}"
    count = f"{plural(found.runs, 'run')} in flight{' or more' if found.is_more else ''}"
    logger.warning("%s", _line(count, nodes, found.broken))
    shown = [
        each
        for each in found.broken
        if each.namespace == namespace or caller.may(Permission.READ, each.namespace)
    ]
    if not shown:
        return None
    return _line(count if len(shown) == len(found.broken) else "runs in flight", nodes, shown)


def _line(count: str, nodes: str, broken: Sequence[BrokenRuns]) -> str:
    runs = listed(dict.fromkeys(run for each in broken for run in each.run_ids), MAX_WARNED)
    changes = listed(dict.fromkeys(str(each.change) for each in broken), MAX_WARNED)
    return shortened(one_line(f"{count} cannot go on with {nodes}: {runs}: {changes}"), MAX_LINE)
