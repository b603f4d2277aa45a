"""The long work as a workflow of DBOS, each step a step of DBOS, as in its example of a queue worker.

    python stop_dbos.py submit
    python stop_dbos.py work

DBOS handles no signals: SIGTERM ends the process at once. The next process with the same executor id goes on
after the last step whose result was stored.
"""

import os
import sys
import threading
import time

from dbos import DBOS, DBOSClient

from tests.bench.stop_work import STEP, Execution

DATABASE, QUEUE = os.environ["STOP_DATABASE"], "long"


def do_step(execution, number):
    execution.begin_step(number)
    time.sleep(STEP)


@DBOS.workflow()
def long_work():
    execution = Execution()
    for number in range(execution.steps):
        DBOS.run_step(None, do_step, execution, number)
    execution.finish()


def submit():
    DBOSClient(system_database_url=DATABASE).enqueue({"queue_name": QUEUE, "workflow_name": "long_work"})


def work():
    DBOS(config={"name": "long-work", "application_version": "1", "system_database_url": DATABASE})
    DBOS.launch()
    DBOS.register_queue(QUEUE)
    threading.Event().wait()


{"submit": submit, "work": work}[sys.argv[1]]()
