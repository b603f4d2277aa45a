"""The long work as a task of Procrastinate, which runs again after a stop.

    procrastinate --app=tests.bench.stop_procrastinate.app worker --shutdown-graceful-timeout 20

After SIGTERM the worker waits for its jobs for that many seconds, and then cancels them; by default it waits
without a limit.
"""

import asyncio
import os

import procrastinate

from tests.bench.stop_work import STEP, Execution

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=os.environ["STOP_DATABASE"]))


@app.task(name="long_work", retry=True)
async def long_work():
    execution = Execution()
    for number in range(execution.steps):
        execution.begin_step(number)
        await asyncio.sleep(STEP)
    execution.finish()
