"""A quarter of daily totals: long work that continues where it was stopped.

    python -m exotrio run examples/backfill.py

Press Ctrl-C: the node hands over within one day of its work. The command that is printed continues with the
next day; so does any other runtime, after a deploy or a crash. This proves it, with real processes:

    python -m exotrio rehearse examples/backfill.py --times 8
"""

import sqlite3
import time
from contextlib import closing
from datetime import date, timedelta

from pydantic import BaseModel

from exotrio import BaseNode, Graph, HandOver, Runtime

NAMESPACE = "examples"
FILE = "totals.db"


def ask_for_total(day: date) -> int:
    """Stands for a slow service."""
    time.sleep(0.02)
    return day.toordinal() % 100


class Backfill(BaseNode):
    class Inputs(BaseModel):
        first: date
        last: date

    class Checkpoint(BaseModel):
        done: date | None = None

    class Outputs(BaseModel):
        days: int
        total: int

    def execute(self) -> Outputs:
        first, last, done = self.inputs.first, self.inputs.last, self.checkpoint.done
        day = first if done is None else done + timedelta(days=1)
        with closing(sqlite3.connect(FILE)) as db:
            db.execute("CREATE TABLE IF NOT EXISTS totals (day TEXT PRIMARY KEY, total INTEGER)")
            while day <= last:
                if self.stopping:
                    raise HandOver()
                with db:  # a commit. After a crash the last days are done again: REPLACE makes that harmless
                    db.execute("REPLACE INTO totals VALUES (?, ?)", (day.isoformat(), ask_for_total(day)))
                self.checkpoint = self.Checkpoint(done=day)
                self.progress((day - first) / (last - first), f"{day}")
                day += timedelta(days=1)
            days, total = db.execute("SELECT count(*), sum(total) FROM totals").fetchone()
        return self.Outputs(days=days, total=total)


graph = Graph("backfill", namespace=NAMESPACE)
graph.add(Backfill, first=date(2025, 1, 1), last=date(2025, 3, 31))

runtime = Runtime(namespace=NAMESPACE, name="backfill", nodes=[Backfill])

if __name__ == "__main__":
    runtime.start()
