"""How many cores a process may use, under the limits that containers set."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from exotrio._util.cores import usable_cores

MANY = 64


@pytest.fixture(autouse=True)
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(MANY)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: MANY)


def system(root: Path, groups: str, **limits: str) -> Path:
    """Write the files of a system: which groups this process is in, and what stands in files of theirs."""
    for name, text in {"proc/self/cgroup": groups, **limits}.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
    return root


def v2(path: str) -> str:
    return f"sys/fs/cgroup/{path}cpu.max"


def v1(name: str, path: str = "", controllers: str = "cpu,cpuacct") -> str:
    return f"sys/fs/cgroup/{controllers}/{path}cpu.cfs_{name}_us"


def test_without_limits_it_is_what_the_affinity_allows(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == MANY
    assert usable_cores(system(tmp_path, "0::/\n")) == MANY
    assert usable_cores(system(tmp_path, "0::/\n", **{v2(""): "max 100000\n"})) == MANY


@pytest.mark.parametrize(("quota", "cores"), [(200_000, 2), (150_000, 2), (10_000, 1)])
def test_the_limit_of_a_container_counts_rounded_up(tmp_path: Path, quota: int, cores: int) -> None:
    assert usable_cores(system(tmp_path, "0::/\n", **{v2(""): f"{quota} 100000\n"})) == cores


def test_the_narrowest_of_the_groups_around_it_counts(tmp_path: Path) -> None:
    limits = {v2("a/"): "300000 100000\n", v2("a/b/"): "800000 100000\n"}
    assert usable_cores(system(tmp_path, "0::/a/b\n", **limits)) == 3


def test_the_older_version_of_control_groups_counts_too(tmp_path: Path) -> None:
    groups = "5:memory:/x\n4:cpu,cpuacct:/outside/of/the/container\n"
    limits = {v1("quota"): "500000\n", v1("period"): "100000\n"}
    assert usable_cores(system(tmp_path, groups, **limits)) == 5
    assert usable_cores(system(tmp_path, groups, **{v1("quota"): "-1\n"})) == MANY


def test_no_limit_allows_more_than_the_affinity(tmp_path: Path) -> None:
    assert usable_cores(system(tmp_path, "0::/\n", **{v2(""): f"{MANY * 2}00000 100000\n"})) == MANY
