"""What ``graph check`` found in several files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from exotrio._runtime.runtime import Runtime
from exotrio.cli.graphs.check import Checked, check_draft, nodes_of
from exotrio.cli.graphs.file import Draft, drafts_of, is_json, read_draft
from exotrio.cli.graphs.problems import FileProblem
from exotrio.cli.load import load, users_line
from exotrio.errors import ExotrioError, ProblemsError


@dataclass(frozen=True, slots=True)
class Report:
    """The graphs of several files, and the files that could not be read."""

    checked: list[Checked]
    broken: list[FileProblem]
    without_graphs: list[str] = field(default_factory=list)

    @property
    def valid(self) -> bool:
        return not self.broken and all(each.valid for each in self.checked)

    def as_json(self) -> dict[str, Any]:
        return {
            "valid": self.valid,
            "graphs": [
                {"file": each.draft.file, "graph": each.draft.name, "valid": each.valid}
                for each in self.checked
            ],
            "problems": [asdict(problem) for problem in self._problems()],
        }

    def as_lines(self) -> list[str]:
        lines = [str(problem) for problem in self._problems()]
        for each in self.checked:
            name = f"graph {each.draft.name}" if each.draft.name else "the graph"
            lines.append(f"{each.draft.file}: {name} is {'valid' if each.valid else 'invalid'}")
        lines += [f"{file}: no graph" for file in self.without_graphs]
        return lines

    def not_checked(self) -> Iterator[str]:
        """Yield a message about what was not checked."""
        unknown = sorted(frozenset().union(*(each.unknown for each in self.checked)))
        if unknown:
            yield (
                f"not checked: the nodes of namespace {', '.join(map(repr, unknown))}; "
                "name the Python file of their Runtime too"
            )

    def _problems(self) -> Iterator[FileProblem]:
        yield from self.broken
        for each in self.checked:
            yield from each.problems


def check_files(targets: Sequence[str], secrets: Sequence[str] = ()) -> Report:
    """Check the graphs of all files, with the nodes that the Python files among them define.

    Args:
        targets: JSON files, and Python files or modules.
        secrets: Names of secrets that will be given beside the files.
    """
    drafts: list[Draft] = []
    runtimes: list[Runtime] = []
    report = Report([], [])
    for target in targets:
        if is_json(target):
            draft = read_draft(target)
            if draft.body is None and draft.locator.source is None:
                report.broken.extend(draft.problems)
            else:
                drafts.append(draft)
            continue
        try:
            loaded = load(target)
        except ExotrioError as error:
            report.broken.extend(_broken(target, error))
            continue
        found = drafts_of(loaded)
        drafts += found
        runtimes += loaded.runtimes()
        if not found:
            report.without_graphs.append(target)
    nodes = nodes_of(runtimes)
    report.checked.extend(check_draft(draft, nodes, secrets) for draft in drafts)
    return report


def _broken(target: str, error: ExotrioError) -> list[FileProblem]:
    place = users_line(error.__cause__) if error.__cause__ else None
    line = place[1] if place and place[0].endswith(target.rpartition(":")[0] or target) else None
    what = error.what.removeprefix(f"{target} ")
    problems = error.problems if isinstance(error, ProblemsError) else ()
    return [FileProblem(target, f"{what}: {problem}", line) for problem in problems] or [
        FileProblem(target, what, line)
    ]
