"""Checksum a tree of files, find duplicates, write SHA256SUMS.

    python -m exotrio run examples/audit.py
    sha256sum -c SHA256SUMS

``plan -> scan -> digest -> report``: scan fans out to one digest per file; report unites plan, so it
runs once, when every digest has ended, and receives all lines as one list. Another tree or
algorithm: ``--store root=DIR --store algorithm=blake2b``.
"""

import hashlib
import logging
import os
import sysconfig
from collections import defaultdict
from pathlib import Path

from pydantic import BaseModel

from exotrio import BaseNode, Graph, PruneSignal, RetryPolicyModel, Runtime

NAMESPACE = "examples"
# Not part of the standard library, or written by Python during the scan.
SKIPPED = {"__pycache__", "site-packages", "dist-packages"}

log = logging.getLogger("audit")


class Plan(BaseNode):
    """Check the settings before any work is done."""

    class Inputs(BaseModel):
        root: str
        algorithm: str

    class Outputs(BaseModel):
        root: str
        algorithm: str

    # Plain def nodes run in threads, so that reading disks does not block the loop.
    def execute(self) -> Outputs:
        root = Path(self.inputs.root).resolve()
        if not root.is_dir():
            raise NotADirectoryError(f"{root} is not a folder; give one with --store root=DIR")
        if self.inputs.algorithm not in hashlib.algorithms_guaranteed:
            raise ValueError(f"unknown algorithm {self.inputs.algorithm!r}")
        return self.Outputs(root=str(root), algorithm=self.inputs.algorithm)


class Scan(BaseNode):
    """Find the files: one output for each, so the graph fans out here."""

    class Inputs(BaseModel):
        root: str

    class Outputs(BaseModel):
        path: str

    def execute(self) -> list[Outputs]:
        outputs = []
        for folder, folders, names in os.walk(self.inputs.root):
            folders[:] = sorted(set(folders) - SKIPPED)
            for name in sorted(names):
                path = os.path.join(folder, name)
                if not path.isprintable():
                    log.warning("left out, its name cannot be written into a list: %r", path)
                elif os.path.isfile(path):
                    outputs.append(self.Outputs(path=path))
        if not outputs:
            raise PruneSignal({"reason": f"there is no file in {self.inputs.root}"})
        return outputs


class Digest(BaseNode):
    """Checksum one file. An error (unreadable, say) is retried, then shown as the state's error."""

    class Inputs(BaseModel):
        path: str
        algorithm: str

    class Outputs(BaseModel):
        line: str
        size: int

    def execute(self) -> Outputs:
        with open(self.inputs.path, "rb") as file:
            digest = hashlib.file_digest(file, self.inputs.algorithm)
            size = file.tell()
        if size == 0:
            raise PruneSignal({"empty": self.inputs.path})
        # The form of sha256sum, which puts a backslash before lines whose names have one.
        path = self.inputs.path.replace("\\", "\\\\")
        mark = "\\" if "\\" in path else ""
        return self.Outputs(line=f"{mark}{digest.hexdigest()}  {path}", size=size)


class Report(BaseNode):
    """Write the list and count the duplicates."""

    class Inputs(BaseModel):
        algorithm: str
        lines: list[str]
        sizes: list[int]

    class Outputs(BaseModel):
        files: str
        bytes: str
        duplicates: str
        written: str

    def execute(self) -> Outputs:
        lines, sizes = self.inputs.lines, self.inputs.sizes
        same = defaultdict(list)
        for line, size in zip(lines, sizes, strict=True):
            same[line.lstrip("\\").split("  ", 1)[0]].append(size)
        spare = [size for group in same.values() for size in group[1:]]
        written = Path(f"{self.inputs.algorithm.upper()}SUMS").resolve()
        # A node may run twice (its worker was killed before the outcome was stored), so it replaces
        # the file as a whole.
        draft = written.with_name(f".{written.name}.{os.getpid()}")
        draft.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        draft.replace(written)
        return self.Outputs(
            files=str(len(lines)),
            bytes=str(sum(sizes)),
            duplicates=f"{len(spare)} files, {sum(spare)} bytes",
            written=str(written),
        )


graph = Graph("audit", namespace=NAMESPACE, retry_policy=RetryPolicyModel.fixed(0.2, retries=2))
plan = graph.add(
    Plan,
    root=graph.store("root", default=sysconfig.get_path("stdlib")),
    algorithm=graph.store("algorithm", default="sha256"),
)
scan = graph.add(Scan, root=plan.root)
digest = graph.add(Digest, path=scan.path, algorithm=plan.algorithm)
graph.add(
    Report,
    unites=plan,
    # A file that stays unreadable must not keep the others from being listed.
    strategy="ALL_DONE",
    algorithm=plan.algorithm,
    lines=digest.every.line,
    sizes=digest.every.size,
)

runtime = Runtime(namespace=NAMESPACE, name="audit", nodes=[Plan, Scan, Digest, Report], batch_size=64)

if __name__ == "__main__":
    runtime.start()
