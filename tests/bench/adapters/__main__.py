"""``python -m tests.bench.adapters NAME MODE ADDRESS [options]``: run a system in its environment.

install     make what the system needs at an empty address, and print the versions of system and Python
figures     measure one round of the table, and print it as JSON
arena       be one replica in the arena, until SIGTERM
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import signal
from importlib import import_module
from typing import Any

import anyio

from tests.bench.adapters import Adapter, Perform
from tests.bench.adapters.arena import Replica
from tests.bench.adapters.jobs import Jobs
from tests.bench.adapters.measuring import Measurement, Sizes


class Process:
    """This process and its arguments."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self.system: type[Adapter] = import_module(f"tests.bench.adapters.{arguments.name}").System

    async def install(self) -> None:
        await self._make(Jobs().perform).install()
        print(f"{self.system.version} {platform.python_version()}")

    async def figures(self) -> None:
        jobs = Jobs()
        jobs.system = system = self._make(jobs.perform)
        async with system.connected():
            sizes = Sizes.scaled(self._arguments.scale)
            print(json.dumps(await Measurement(system, jobs, sizes).all()))

    async def arena(self) -> None:
        # As exotrio sets it in processes that it starts. Each system gains by it.
        gc.set_threshold(2_000, 20, 20)
        replica = Replica(self._arguments.journal, self._arguments.work)
        replica.system = system = self._make(replica.perform)
        # Until it works, SIGTERM ends it at once.
        async with system.connected(), system.working(), anyio.create_task_group() as tasks:
            with anyio.open_signal_receiver(signal.SIGTERM) as signals:
                tasks.start_soon(replica.read_commands)
                tasks.start_soon(replica.submit_ordered)
                print("working", flush=True)
                await anext(signals)
                tasks.cancel_scope.cancel()

    def _make(self, perform: Perform) -> Adapter:
        arguments = self._arguments
        return self.system(arguments.address, perform, workers=arguments.workers, tuned=arguments.tuned)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("name", help="a module of this folder")
    parser.add_argument("mode", choices=["install", "figures", "arena"])
    parser.add_argument("address", help="where the system stores its jobs")
    parser.add_argument("--workers", type=int, help="maximum number of jobs at once; default: the system's")
    parser.add_argument("--tuned", action="store_true", help="use settings for throughput")
    parser.add_argument("--scale", type=float, default=1.0, help="of the sizes of figures")
    parser.add_argument("--journal", help="file for what was submitted and done in the arena")
    parser.add_argument("--work", type=float, default=0.001, help="seconds of a job in the arena")
    process = Process(parser.parse_args())
    run: Any = getattr(process, process._arguments.mode)
    anyio.run(run, backend=process.system.backend, backend_options=process.system.backend_options)


if __name__ == "__main__":
    main()
