"""Bodies of native routes about releases: which runs new code would break, and which versions are needed."""

from typing import Annotated

from pydantic import Field

from exotrio._wire.body import Body, UnixMs
from exotrio._wire.v0 import NodeDeclaration
from exotrio._wire.vocabulary import MAX_BATCH
from exotrio.graph.breaking import BreakingChange


class NewRelease(Body):
    """The nodes and the graphs of new code, for one namespace.

    Fields:
        runtimes: Names of its runtimes: nodes that they registered, and that are missing here, are removed.
        nodes: All that its runtimes register.
        secrets: Name of each graph that it stores to the names of the secrets that the graph is given.
    """

    runtimes: Annotated[list[str], Field(max_length=MAX_BATCH)]
    nodes: Annotated[list[NodeDeclaration], Field(max_length=MAX_BATCH)]
    secrets: dict[str, list[str]] = {}


class BrokenRuns(Body):
    """Runs in flight of one graph that one change breaks.

    Fields:
        change: What breaks them; its ``places`` are identifiers of the graph.
        run_ids: The first of these runs.
    """

    namespace: str
    graph: str
    change: BreakingChange
    run_ids: list[str]
    runs: int


class ReleaseCheck(Body):
    """What a release would break.

    Fields:
        broken: What each change breaks, by graph.
        runs: How many runs would break; each counts once.
        checked: Runs in flight that were compared: of graphs with a node that changed.
    """

    broken: list[BrokenRuns] = []
    runs: int = 0
    checked: int = 0
    is_more: bool = False


class VersionInfo(Body):
    """One version of code in a namespace.

    Fields:
        runtimes: Live ones that have it.
        runs: Runs in flight that are pinned to it.
        oldest: When the first of those was created.
        graphs: The first graphs whose next runs are pinned to it.
        needed: Whether any run, state or graph needs it; otherwise its runtimes may be stopped.
    """

    version: str
    runtimes: int
    runs: int
    oldest: UnixMs | None = Field(alias="oldest_ms")
    graphs: list[str]
    needed: bool

    @property
    def state(self) -> str:
        """Whether it may be stopped, in words."""
        if not self.needed:
            return "may be stopped"
        return "needed" if self.runtimes or not self.runs else "needed, and no live runtime has it"


class VersionList(Body):
    """The versions that a live runtime has or something needs, the one with the oldest run first."""

    versions: list[VersionInfo]
