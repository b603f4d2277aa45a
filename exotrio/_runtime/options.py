"""The arguments of a runtime, checked: every problem of one call at once."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, get_args
from uuid import uuid4

from exotrio._http.endpoint import Endpoint, ambient, argument_problems, resolve_endpoint, version_problems
from exotrio._link.port import LinkKind
from exotrio._nodes.base import BaseNode, checkpoint_class_of
from exotrio._nodes.checks import count_problems, declare, node_problems, seconds_problems, shown
from exotrio._runtime.lifecycle import Summary
from exotrio._shared.settings import CODE_VERSION_VARIABLE, read_settings
from exotrio._wire.vocabulary import MAX_BATCH
from exotrio.errors import ConfigurationError
from exotrio.graph import MAX_NAME, check_name, check_version, pinned_name

if TYPE_CHECKING:
    import httpx

    from exotrio._wire.v0 import NodeDeclaration

ExitCode = Callable[[Summary | BaseException], int]
_NO_NODES = "nodes is empty: pass at least one node class"


class Adjustments(TypedDict, total=False):
    """Options of the command line, in place of arguments of a runtime; None leaves an argument as it is.

    Fields:
        shutdown_grace, version: As in the constructor.
        until_drained: Stop once nothing needs the version any more.
        pinned_only: Execute only states that are pinned to the version.
        outbox: The file for the outbox, if there is one.
        exit_code: Returns the exit code of this process for the summary, or for the error that ended the
            Runtime, if the process ends with it. The receipt of the stop says it.
    """

    shutdown_grace: float | None
    outbox: str | None
    exit_code: ExitCode | None
    version: str | None
    until_drained: bool
    pinned_only: bool


@dataclass(slots=True, kw_only=True)
class Options:
    """The arguments of a runtime, checked. See ``Runtime`` for the meanings. Nothing changes them once it has
    started.

    Attributes:
        state_manager_uri, key, transport: The arguments; ``resolve_endpoint`` finds what is missing at the
            start.
        nodes: Registered name to node class.
        declarations: The nodes as they are registered.
        digests: Registered name to the digest of its declaration.
        version: That of the code; None for none. ``resolve_version`` completes it at the start.
        worker_id: Names this runtime to a state manager with leases.
        exit_code: Returns the exit code of the process; None if that does not end with the runtime.

    Raises:
        ConfigurationError: an argument cannot be used; ``problems`` names each.
    """

    namespace: str
    name: str
    classes: InitVar[Sequence[type[BaseNode]]]
    state_manager_uri: str | None = field(repr=False)
    key: str | None = field(repr=False)
    batch_size: int
    workers: int
    state_manager_version: str
    poll_interval: float
    shutdown_grace: float
    transport: httpx.AsyncBaseTransport | None
    link: LinkKind
    capture_logs: bool
    version: str | None = None
    until_drained: bool = False
    pinned_only: bool = False
    outbox_file: InitVar[str | os.PathLike[str] | None]
    nodes: Mapping[str, type[BaseNode]] = field(init=False)
    declarations: tuple[NodeDeclaration, ...] = field(init=False)
    digests: Mapping[str, str] = field(init=False)
    outbox: Path | None = field(init=False)
    worker_id: str = field(init=False)
    exit_code: ExitCode | None = field(default=None, init=False)

    def __post_init__(self, classes: Any, outbox_file: Any) -> None:
        problems = [*_name_problems("namespace", self.namespace), *_name_problems("name", self.name)]
        if isinstance(classes, Iterable) and not isinstance(classes, str | bytes | type):
            classes = tuple(classes)
            problems += node_problems(classes) or ([] if classes else [_NO_NODES])
        else:
            problems.append(f"nodes must be a list of node classes, not {shown(classes)}")
        problems += count_problems("batch_size", self.batch_size)
        problems += count_problems("workers", self.workers)
        problems += seconds_problems("poll_interval", self.poll_interval)
        problems += seconds_problems("shutdown_grace", self.shutdown_grace, zero=True)
        problems += version_problems(self.state_manager_version)
        if self.link not in get_args(LinkKind):
            problems.append(f"link is {self.link!r}: use 'auto', 'v0' or 'native'")
        if not isinstance(self.capture_logs, bool):
            problems.append(f"capture_logs must be True or False, not {shown(self.capture_logs)}")
        if outbox_file is not None and not (
            isinstance(outbox_file, str | os.PathLike) and os.fspath(outbox_file)
        ):
            problems.append(f"outbox must be the path of a file, not {shown(outbox_file)}")
        if self.version is not None:
            problems += _version_problems("version", self.version)
        texts: dict[str, Any] = {"state_manager_uri": self.state_manager_uri, "key": self.key}
        not_text = [
            f"{title} must be text, not {shown(value)}"
            for title, value in texts.items()
            if not isinstance(value, str | None)
        ]
        problems += not_text or argument_problems(self.state_manager_uri, self.key, self.transport)
        if problems:
            raise ConfigurationError("the runtime cannot be built", problems)
        self.nodes = {node.__name__: node for node in classes}
        self.declarations = tuple(map(declare, classes))
        self.digests = {node.name: node.digest for node in self.declarations}
        # Absolute, or a program that changes its directory would start with another file.
        self.outbox = None if outbox_file is None else Path(os.path.abspath(outbox_file))
        self.worker_id = f"{self.name[:60]}@{socket.gethostname()[:100]}:{os.getpid()}:{uuid4().hex[:12]}"

    @property
    def with_checkpoints(self) -> list[str]:
        """The names of the nodes that have checkpoints."""
        return [name for name, node in self.nodes.items() if checkpoint_class_of(node) is not None]

    def resolve_version(self) -> None:
        """Complete the version by the settings, and name the nodes of it that are registered, too.

        Raises:
            ConfigurationError: the version cannot be used.
        """
        if self.version is None:
            version = read_settings().code_version
            if version is not None and (problems := _version_problems(CODE_VERSION_VARIABLE, version)):
                raise ConfigurationError("the runtime has no usable version", problems)
            self.version = version
        if self.version is None:
            if self.until_drained:
                what = "a runtime that is to stop once nothing needs its version has none"
                fix = f"give the version: --code-version, {CODE_VERSION_VARIABLE} or Runtime(version=...)"
                raise ConfigurationError(what, fix=fix)
            return
        if len(self.nodes) > MAX_BATCH // 2:
            raise ConfigurationError(
                f"a runtime with a version has at most {MAX_BATCH // 2} nodes, this one {len(self.nodes)}",
                fix="let two runtimes have them",
            )
        named: dict[str, str] = {}
        for node in self.declarations:
            for name in (node.name, pinned_name(node.name, self.version)):
                if (other := named.setdefault(name, node.name)) != node.name:
                    raise ConfigurationError(
                        f"the nodes {other!r} and {node.name!r} are both {name!r} in version {self.version}",
                        fix="rename one of the classes, or let two runtimes have them",
                    )
        self.digests = {
            name: node.digest
            for node in self.declarations
            for name in (*[node.name] * (not self.pinned_only), pinned_name(node.name, self.version))
        }

    def resolve_endpoint(self) -> Endpoint:
        """Return the state manager: that of the command which loaded the file, if it insists on it; otherwise
        that of the arguments, completed by the settings.

        Raises:
            ConfigurationError: no state manager is named, or no key.
        """
        supplied = ambient()
        if supplied is not None and supplied.endpoint is not None and not supplied.is_last_resort:
            return supplied.endpoint
        endpoint, problems = resolve_endpoint(self.state_manager_uri, self.key, self.transport)
        if endpoint is None:
            raise ConfigurationError("the runtime has no state manager", problems)
        return endpoint

    def adjust(self, **arguments: Unpack[Adjustments]) -> None:
        """See ``Runtime.adjust``."""
        if arguments.get("until_drained"):
            self.link = "native"  # a server of v0 knows no versions, and is refused
        outbox = arguments.pop("outbox", None)
        if outbox is not None and self.outbox is not None:
            self.outbox = Path(outbox)
        for name, value in arguments.items():
            if value is not None:
                setattr(self, name, value)


def _version_problems(title: str, value: Any) -> list[str]:
    if not isinstance(value, str):
        return [f"{title} must be text, not {shown(value)}"]
    try:
        check_version(value)
    except ValueError as error:
        return [f"{title} {error}"]
    return []


def _name_problems(title: str, value: Any) -> list[str]:
    if not isinstance(value, str):
        return [f"{title} must be text, not {shown(value)}"]
    if not value.strip():
        return [f"{title} is blank"]
    try:
        check_name(value)
    except ValueError as error:
        return [f"{title} {value[:MAX_NAME]!r} {error}"]
    return []
