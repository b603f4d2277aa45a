"""Finding workers by what people call them: their id, its last part, or the name of their Runtime.

The last part is 12 digits that no two workers share. Where nothing is changed, the first 6 of these, or
of the id, are enough.
"""

from __future__ import annotations

from collections.abc import Sequence

from exotrio.cli.lookup.resources import MIN_PREFIX
from exotrio.cli.terminal.words import closest, listed
from exotrio.client import RuntimeInfo
from exotrio.errors import NotFound

STOPPED = "stopped"


def find_workers(workers: Sequence[RuntimeInfo], given: str) -> list[RuntimeInfo]:
    """Return the one worker with this id or last part, or all live ones of the Runtime with this name.

    Raises:
        NotFound: there is none; the error says which may have been meant.
    """
    found = _called(workers, given)
    if found:
        return found
    begun = _begun(workers, given)
    if len(begun) == 1:
        raise NotFound(
            f"there is no runtime {given!r}; did you mean {begun[0].worker_id}?",
            fix="to drain one, give its whole id, or all that is behind the last colon",
        )
    raise _none(workers, given)


def find_worker(workers: Sequence[RuntimeInfo], given: str) -> RuntimeInfo:
    """Return one worker, also by the beginning of its id or last part.

    Raises:
        NotFound: there is none, or several are called like that.
    """
    found = _called(workers, given) or _begun(workers, given)
    if not found:
        raise _none(workers, given)
    if len(found) > 1:
        raise NotFound(
            f"{len(found)} runtimes are called {given!r}",
            fix=f"name one of them: {listed(map(_last_part, found))}",
        )
    return found[0]


def _last_part(worker: RuntimeInfo) -> str:
    return worker.worker_id.rpartition(":")[2]


def _called(workers: Sequence[RuntimeInfo], given: str) -> list[RuntimeInfo]:
    by_id = [worker for worker in workers if given in (worker.worker_id, _last_part(worker))]
    return by_id or [worker for worker in workers if worker.live and worker.runtime == given]


def _begun(workers: Sequence[RuntimeInfo], given: str) -> list[RuntimeInfo]:
    if len(given) < MIN_PREFIX:
        return []
    return [
        worker
        for worker in workers
        if worker.worker_id.startswith(given) or _last_part(worker).startswith(given)
    ]


def _none(workers: Sequence[RuntimeInfo], given: str) -> NotFound:
    names = sorted({worker.runtime for worker in workers if worker.live and worker.runtime})
    near = closest(given, [*names, *(worker.worker_id for worker in workers)])
    return NotFound(
        f"there is no runtime {given!r}" + (f"; did you mean {near!r}?" if near else ""),
        fix=f"there are: {listed(names)}; see `runtimes ls` for their ids",
    )
