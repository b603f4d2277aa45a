"""Wait for a job that runs elsewhere, without a worker that waits.

    python -m exotrio run examples/polling.py

``choose -> submit -> wait``. The job is a process that outlives this one; it could as well be a
batch system or another team's API. ``wait`` polls once and, while the job runs, asks to be run again
later: between two polls the state is only a row in the database. So all of this may be
killed and continued with ``--resume RUN``: the job is neither lost nor submitted twice.
"""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

from pydantic import BaseModel

from exotrio import BaseNode, Graph, ReQueueAfterSignal, RetryPolicyModel, Runtime

NAMESPACE = "examples"
JOBS = Path(".jobs")
# Submits the job: each name is accepted once. The job continues after this program has ended, takes its time,
# then writes its result, all of it or nothing.
JOB = """
import os, pathlib, sys, time
result = pathlib.Path(sys.argv[1])
try:
    result.with_suffix(".accepted").touch(exist_ok=False)
except FileExistsError:
    sys.exit()
if os.fork():
    sys.exit()
os.setsid()
time.sleep(float(sys.argv[2]))
draft = result.with_suffix(".draft")
draft.write_text(str(sum(n for n in range(2, 10_000) if all(n % d for d in range(2, int(n**0.5) + 1)))))
draft.replace(result)
"""


class Choose(BaseNode):
    """Choose the job's name before the job exists: once it is stored, it always names the same job."""

    class Outputs(BaseModel):
        job: UUID

    async def execute(self) -> Outputs:
        return self.Outputs(job=uuid4())


class Submit(BaseNode):
    """Submit the job under its name: doing so twice, as a node may, is the same as doing it once."""

    class Inputs(BaseModel):
        job: UUID
        seconds: float

    class Outputs(BaseModel):
        job: UUID
        deadline: datetime

    def execute(self) -> Outputs:
        JOBS.mkdir(exist_ok=True)
        result = JOBS / f"{self.inputs.job}.result"
        command = [sys.executable, "-c", JOB, str(result), str(self.inputs.seconds)]
        quiet = subprocess.DEVNULL
        subprocess.run(command, check=True, stdin=quiet, stdout=quiet, stderr=quiet)
        return self.Outputs(job=self.inputs.job, deadline=datetime.now(UTC) + timedelta(minutes=10))


class Wait(BaseNode):
    """Poll once. All that it needs is in its inputs, nothing is kept in memory."""

    class Inputs(BaseModel):
        job: UUID
        deadline: datetime

    class Outputs(BaseModel):
        result: int

    def execute(self) -> Outputs:
        result = JOBS / f"{self.inputs.job}.result"
        if result.exists():
            return self.Outputs(result=int(result.read_text()))
        if datetime.now(UTC) > self.inputs.deadline:
            raise TimeoutError(f"job {self.inputs.job} is not done in time")
        raise ReQueueAfterSignal(timedelta(seconds=0.25))


# A job that is late stays late, so a retry would not help.
graph = Graph("polling", namespace=NAMESPACE, retry_policy=RetryPolicyModel(max_retries=0))
choose = graph.add(Choose)
submit = graph.add(Submit, job=choose.job, seconds=graph.store("seconds", default=1.5))
graph.add(Wait, job=submit.job, deadline=submit.deadline)

runtime = Runtime(namespace=NAMESPACE, name="polling", nodes=[Choose, Submit, Wait])

if __name__ == "__main__":
    runtime.start()
