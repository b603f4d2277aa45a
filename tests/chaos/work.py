"""What the nodes of the chaos tests have in common: what their environment says,
and how they enter what they do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from exotrio import HandOver, PruneSignal, ReQueueAfterSignal
from exotrio._nodes.importing import is_worker_process
from exotrio._shared.settings import CODE_VERSION_VARIABLE
from tests.chaos.journal import Journal


class Plan:
    """What the environment says of this worker."""

    def __init__(self) -> None:
        self.folder = Path(os.environ.get("CHAOS_FOLDER", "."))
        self.seconds = float(os.environ.get("CHAOS_SECONDS", "0.1"))
        self.long = float(os.environ.get("CHAOS_LONG", "0"))
        self.blocking = float(os.environ.get("CHAOS_BLOCKING", "0"))
        self.workers = int(os.environ.get("CHAOS_WORKERS", "4"))
        self.outbox = os.environ.get("CHAOS_OUTBOX")
        self.version = os.environ.get(CODE_VERSION_VARIABLE, "")

    def first_time(self, key: str) -> bool:
        """Whether this is asked for ``key`` for the first time, in any process."""
        try:
            os.close(os.open(self.folder / "marks" / key.replace("/", "-"), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True


plan = Plan()
if is_worker_process():
    plan.first_time(f"process/{os.getpid()}")  # for the search for those that outlive their runtime


def journal_at(name: str) -> Journal:
    """Open a journal of this runtime, which other processes write, too."""
    return Journal(plan.folder / name, os.getppid() if is_worker_process() else None, plan.version)


@contextmanager
def entered_in(journal: Journal, key: str) -> Iterator[tuple[str, str]]:
    """Enter begin and end of the body in a journal; give the ids of the execution and of the work."""
    execution = journal.begin(key)
    how = "done"
    try:
        yield execution, key
    except trio.Cancelled:
        how = "cancelled"
        raise
    except HandOver:
        how = "handed-over"
        raise
    except PruneSignal:
        how = "pruned"
        raise
    except ReQueueAfterSignal:
        how = "requeued"
        raise
    except BaseException:
        how = "errored"
        raise
    finally:
        journal.end(execution, key, how)
