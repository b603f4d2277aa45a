"""Declares the graph in a file: what ``graph apply`` does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import click

from exotrio._wire.graphs import GraphBody
from exotrio.cli.graphs.file import draft_of, is_json, read_draft
from exotrio.cli.graphs.problems import Locator
from exotrio.cli.load import load
from exotrio.cli.terminal.output import print_message
from exotrio.client import StateManager
from exotrio.errors import GraphInvalid
from exotrio.graph import CronTrigger
from exotrio.manager.rules.problems import Problem


@dataclass(frozen=True, slots=True)
class Application:
    """A graph that is ready to be declared."""

    name: str
    body: GraphBody
    secrets: Mapping[str, str] = field(repr=False)
    locator: Locator

    async def upsert(self, manager: StateManager, timeout: float) -> None:
        """Create or replace the graph, and wait for its validation; GraphInvalid has lines of the file."""
        body, given = self.body, self.body.model_fields_set
        try:
            # What the file leaves out is not sent: the defaults are the state manager's.
            await manager.upsert_graph(
                self.name,
                graph_nodes=body.nodes,
                secrets=dict(self.secrets),
                retry_policy=body.retry_policy if "retry_policy" in given else None,
                store_config=body.store_config if "store_config" in given else None,
                triggers=[CronTrigger(expression=each.value.expression) for each in body.triggers] or None,
                validation_timeout=timeout,
            )
        except GraphInvalid as error:
            problems = [str(self.locator.locate(Problem.read(text), body.nodes)) for text in error.problems]
            raise GraphInvalid(error.what, problems, where=error.where, fix=error.fix) from error


def read_application(target: str, name: str | None, secrets: Mapping[str, str]) -> Application:
    """Read the graph in a JSON file, or in a Python file or module, and refuse one that breaks rules.

    Args:
        name: Name of the graph, in place of the file's; of several in Python, which.
        secrets: Secrets given beside the file.
    """
    if is_json(target):
        draft = read_draft(target)
    else:
        loaded = load(target)
        draft = draft_of(loaded, loaded.graph(name or loaded.attribute))
    errors = [str(problem) for problem in draft.problems if problem.severity == "error"]
    for problem in draft.problems:
        if problem.severity == "warning":
            print_message(str(problem))
    if errors or draft.body is None:
        raise GraphInvalid(f"{draft.file} declares no valid graph", errors)
    name = (name if is_json(target) else None) or draft.name
    if not name:
        raise click.UsageError(
            f'{draft.file} does not name its graph: give --name NAME, or write "name": "..." into it'
        )
    missing = sorted(draft.named_secrets - secrets.keys())
    if missing:
        wanted = " ".join(f"--secret {each}" for each in missing)
        raise click.UsageError(f"{draft.file} names secrets without their values: give {wanted}")
    return Application(name, draft.body, {**draft.body.secrets, **secrets}, draft.locator)
