"""Finds runtimes by their id, the last part of it, or the name of their Runtime.

The last part is 12 digits, unique for each runtime. A command that changes nothing accepts the first 6
characters of it, or of the id.
"""

from __future__ import annotations

from collections.abc import Sequence

from exotrio._util.words import listed
from exotrio.cli.lookup.resources import MIN_PREFIX
from exotrio.cli.terminal.words import closest
from exotrio.client import RuntimeInfo
from exotrio.errors import NotFound

STOPPED = "stopped"


def find_workers(workers: Sequence[RuntimeInfo], given: str) -> list[RuntimeInfo]:
    """Return the runtime with this id or last part, or all live ones of the Runtime with this name.

    Raises:
        NotFound: there is none; the error suggests one.
    """
    found = _named(workers, given)
    if found:
        return found
    similar = _with_prefix(workers, given)
    if len(similar) == 1:
        raise NotFound(
            f"there is no runtime {given!r}; did you mean {similar[0].worker_id}?",
            fix="to drain it, give its whole id, or the part after the last colon",
        )
    raise _not_found(workers, given)


def find_worker(workers: Sequence[RuntimeInfo], given: str) -> RuntimeInfo:
    """Return one runtime, also by a prefix of its id or last part.

    Raises:
        NotFound: there is none, or there are several.
    """
    found = _named(workers, given) or _with_prefix(workers, given)
    if not found:
        raise _not_found(workers, given)
    if len(found) > 1:
        raise NotFound(
            f"{len(found)} runtimes match {given!r}",
            fix=f"name one of them: {listed(map(_last_part, found))}",
        )
    return found[0]


def _last_part(worker: RuntimeInfo) -> str:
    return worker.worker_id.rpartition(":")[2]


def _named(workers: Sequence[RuntimeInfo], given: str) -> list[RuntimeInfo]:
    by_id = [worker for worker in workers if given in (worker.worker_id, _last_part(worker))]
    return by_id or [worker for worker in workers if worker.live and worker.runtime == given]


def _with_prefix(workers: Sequence[RuntimeInfo], given: str) -> list[RuntimeInfo]:
    if len(given) < MIN_PREFIX:
        return []
    return [
        worker
        for worker in workers
        if worker.worker_id.startswith(given) or _last_part(worker).startswith(given)
    ]


def _not_found(workers: Sequence[RuntimeInfo], given: str) -> NotFound:
    names = sorted({worker.runtime for worker in workers if worker.live and worker.runtime})
    near = closest(given, [*names, *(worker.worker_id for worker in workers)])
    return NotFound(
        f"there is no runtime {given!r}" + (f"; did you mean {near!r}?" if near else ""),
        fix=f"there are: {listed(names)}; see `runtimes ls` for their ids",
    )
