"""How many cores this process may use."""

from __future__ import annotations

import math
import os
import sys
from contextlib import suppress
from pathlib import Path

ROOT = Path("/")


def usable_cores(root: Path = ROOT) -> int:
    """Return how many cores this process may use, 1 or more.

    The number is bounded by its affinity (``taskset``, cpusets) and by the limits of its control groups,
    rounded up (``docker run --cpus``, limits of Kubernetes).

    Args:
        root: Folder of the system's files, for tests.
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min([cores, *map(math.ceil, _limits(root))]))


def _limits(root: Path) -> list[float]:
    groups = root / "sys/fs/cgroup"
    with suppress(OSError):
        limits: list[float | None] = []
        for line in (root / "proc/self/cgroup").read_text("utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            own = path.lstrip("/")
            if not controllers:  # version 2
                limits += [_limit(folder / "cpu.max") for folder in _with_parents(groups, own)]
            elif "cpu" in controllers.split(","):
                limits += [
                    _limit(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")
                    for folder in _with_parents(groups / controllers, own)
                ]
        return [limit for limit in limits if limit is not None]
    return []


def _with_parents(top: Path, path: str) -> list[Path]:
    """Return the folders from ``top`` down to ``path``. In a container they may be missing below ``top``."""
    folder = top / path
    return [each for each in (folder, *folder.parents) if each.is_relative_to(top)]


def _limit(*files: Path) -> float | None:
    """Return the cores that quota and period in these files allow; None without a limit."""
    with suppress(OSError, ValueError):  # there is no such file, or its quota is "max"
        quota, period = " ".join(file.read_text("utf-8") for file in files).split()
        if int(quota) > 0 and int(period) > 0:
            return int(quota) / int(period)
    return None
