"""``Graph``: a graph in Python, declared as a list of nodes or built node by node."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypedDict, Unpack, overload

from pydantic import AfterValidator, BaseModel, Field, PrivateAttr, ValidationError, field_validator

from exotrio._fields.models import HasOutputs, M, plain_text
from exotrio._util.words import readable_errors
from exotrio.errors import GraphInvalid
from exotrio.graph.declaration import (
    MAX_PERIOD_MS,
    MIN_PERIOD_MS,
    CronTrigger,
    Declaration,
    LimitModel,
    Name,
    StoreConfigModel,
    check_name,
    no_repeated_limits,
)
from exotrio.graph.inputs import Inputs, models_of, node_name
from exotrio.graph.limits import Limit
from exotrio.graph.node_model import GraphNodeModel, UnitesModel, UnitesStrategyEnum
from exotrio.graph.nodes import GraphNode, followed
from exotrio.graph.references import AddedNode, StoreReference, node_of
from exotrio.graph.retry_policy import RetryPolicyModel

_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_REQUIRED = object()
_Strategy = UnitesStrategyEnum | Literal["ALL_SUCCESS", "ALL_DONE"]


class _Parts(TypedDict, total=False):
    secrets: Mapping[str, str]
    retry_policy: RetryPolicyModel
    store_config: StoreConfigModel
    triggers: list[CronTrigger]
    limits: list[LimitModel]


class Graph(Declaration):
    """A graph in Python, ready for ``StateManager.upsert_graph`` or ``python -m exotrio run``.

    Either ``nodes`` lists its nodes, or ``add`` adds them one by one, and checks each at its line::

        graph = Graph("audit", namespace="examples")
        plan = graph.add(Plan, root=graph.store("root", default="/usr/share"))
        scan = graph.add(Scan, root=plan.root)
        digest = graph.add(Digest, path=scan.path, name=f"{plan.root}: {scan.path}")
        graph.add(Report, unites=plan, lines=digest.every.line)

    Args:
        name: Name of the graph in its namespace.
        nodes: The nodes of the graph; exactly one follows no other, the root.
        namespace: Namespace of the nodes that ``add`` adds without one. The graph itself is declared in that
            of the ``StateManager``.
        secrets: Secret name to value. Values are encrypted at rest and never shown again.
        retry_policy: Defaults to ``RetryPolicyModel()``.
        store_config: Defaults to an empty store. ``store`` adds to it.
        triggers: Cron triggers. Defaults to none.
        limits: Limits of the namespace that are declared with it. Defaults to none. ``limit`` adds to them.

    Raises:
        pydantic.ValidationError: a field breaks its rule, or does not exist; every problem is named.
    """

    name: Name
    nodes: list[GraphNodeModel] = Field(default_factory=list)
    namespace: Annotated[str, AfterValidator(check_name)] | None = None
    secrets: dict[str, str] = Field(default_factory=dict, repr=False)
    retry_policy: RetryPolicyModel = Field(default_factory=RetryPolicyModel)
    store_config: StoreConfigModel = Field(default_factory=StoreConfigModel)
    triggers: list[CronTrigger] = Field(default_factory=list)
    limits: Annotated[list[LimitModel], AfterValidator(no_repeated_limits)] = Field(default_factory=list)

    _added: dict[str, GraphNode] = PrivateAttr(default_factory=dict)

    def __init__(
        self,
        name: str,
        nodes: Sequence[GraphNodeModel | Mapping[str, Any]] | None = None,
        *,
        namespace: str | None = None,
        **parts: Unpack[_Parts],
    ) -> None:
        listed: dict[str, Any] = {} if nodes is None else {"nodes": list(nodes)}
        BaseModel.__init__(self, name=name, namespace=namespace, **listed, **parts)

    @field_validator("nodes")
    @classmethod
    def _has_nodes(cls, nodes: list[GraphNodeModel]) -> list[GraphNodeModel]:
        if not nodes:
            raise ValueError("a graph needs at least one node")
        return nodes

    @overload
    def add(
        self,
        node: type[HasOutputs[M]],
        /,
        *,
        identifier: str | None = None,
        namespace: str | None = None,
        after: AddedNode[Any] | Sequence[AddedNode[Any]] = (),
        unites: AddedNode[Any] | None = None,
        strategy: _Strategy | None = None,
        timeout_minutes: int | None = None,
        timeout: float | None = None,
        retry_policy: RetryPolicyModel | None = None,
        limits: Limit | Sequence[Limit] = (),
        inputs: Mapping[str, object] | None = None,
        **fields: object,
    ) -> AddedNode[M]: ...

    @overload
    def add(
        self,
        node: type | str,
        /,
        *,
        identifier: str | None = None,
        namespace: str | None = None,
        after: AddedNode[Any] | Sequence[AddedNode[Any]] = (),
        unites: AddedNode[Any] | None = None,
        strategy: _Strategy | None = None,
        timeout_minutes: int | None = None,
        timeout: float | None = None,
        retry_policy: RetryPolicyModel | None = None,
        limits: Limit | Sequence[Limit] = (),
        inputs: Mapping[str, object] | None = None,
        **fields: object,
    ) -> AddedNode[Any]: ...

    def add(
        self,
        node: type | str,
        /,
        *,
        identifier: str | None = None,
        namespace: str | None = None,
        after: AddedNode[Any] | Sequence[AddedNode[Any]] = (),
        unites: AddedNode[Any] | None = None,
        strategy: _Strategy | None = None,
        timeout_minutes: int | None = None,
        timeout: float | None = None,
        retry_policy: RetryPolicyModel | None = None,
        limits: Limit | Sequence[Limit] = (),
        inputs: Mapping[str, object] | None = None,
        **fields: object,
    ) -> AddedNode[Any]:
        """Add a node, which follows those whose outputs it refers to, and return it for further references.

        The first node is the root. Each other one follows the last of the nodes that it refers to, so the
        others have to come before that one; or ``after`` names the nodes that it follows.

        What is returned also stands for the node where its outputs are read: ``manager.outputs(run, plan)``.

        Args:
            node: The node class; or the name of one that cannot be imported here, such as another team's,
                whose inputs and outputs are not checked.
            identifier: Name of the node in the graph. Defaults to the name of the class in lower case, with
                underscores between its words: ``Plan`` is ``plan``, ``SendMail`` is ``send_mail``.
            namespace: Namespace that the node is registered in. Defaults to the graph's.
            after: Nodes that it follows, instead of those that it refers to: for an edge without data. It
                runs once after each of them.
            unites: A node before all that it follows: it runs once for each state of that node, when
                everything below that state has ended. Outputs below are lists, ``node.every.output``.
            strategy: ``"ALL_SUCCESS"``, the default: it runs if nothing below failed; or ``"ALL_DONE"``: it
                runs in any case. Only with ``unites``.
            timeout_minutes: Limit in minutes for one execution here, as in ``GraphNodeModel``.
            timeout: Limit in seconds for one execution here, in place of that of the class. Defaults to that
                of the class. Needs our server.
            retry_policy: When its failed states are tried again. Defaults to the policy of the graph. Needs
                our server.
            limits: Limits that it takes part in, as ``limit`` returned them; with ``for_key``, separately for
                each key.
            inputs: Further inputs, for names that are arguments here or not Python identifiers.
            fields: Inputs by name. A value is a reference (``plan.root``, ``graph.store("root")``); a value
                of the field's type, or its text; or text with references in it, by an f-string. An
                input without a value has the default of its class.

        Raises:
            GraphInvalid: it cannot stand in this graph; ``problems`` names each reason. Nothing was added.
        """
        __tracebackhide__ = True  # pytest shows the caller's line last
        try:
            namespace = self.namespace if namespace is None else namespace
            after = list(after) if isinstance(after, Iterable) else [after]
            if not isinstance(node, type | str):
                what = f"{type(node).__name__} object cannot be added to graph {self.name!r}"
                raise GraphInvalid(f"a {what}", fix="pass a node class, or the name of one")
            name = _WORD.sub("_", node_name(node)).lower() if identifier is None else identifier
            model_of_outputs = models_of(node)[1] if isinstance(node, type) else None
            others = after if unites is None else [*after, unites]
            limits = [limits] if isinstance(limits, Limit | str) else list(limits)
            problems = list(dict.fromkeys(self._wrong_arguments(name, namespace, others, limits)))
            if strategy is not None and unites is None:
                problems.append("strategy= is only for a node with unites=")
            values = Inputs(node, {**(inputs or {}), **fields}, self._added, self.store_config)
            keys = values.limits([each for each in limits if isinstance(each, Limit)])
            problems += values.problems
            model = None
            try:
                model = GraphNodeModel(
                    node_name=node_name(node),
                    namespace=namespace or "",
                    identifier=name,
                    inputs=values.texts,
                    unites=_unites(unites, strategy),
                    timeout_minutes=timeout_minutes,
                    timeout=timeout,
                    retry_policy=retry_policy,
                    limits=keys,
                )
            except ValidationError as error:
                problems += readable_errors(error)
            if model is not None and not problems:
                target = None if unites is None else node_of(unites)
                before = followed(target, list(dict.fromkeys(map(node_of, after))), values.sources)
                added = GraphNode(model=model, outputs_model=model_of_outputs, unites=target, before=before)
                problems += added.problems(next(iter(self._added), None))
                problems += values.reference_problems(added, self._added.values()) if not problems else ()
                if not problems:
                    for each in before:
                        each.model.next_nodes = [*(each.model.next_nodes or ()), model.identifier]
                    self.nodes.append(model)
                    self._added[model.identifier] = added
                    return AddedNode(added)
            raise GraphInvalid(f"node {name!r} cannot be added to graph {self.name!r}", problems)
        except GraphInvalid as error:
            raise error.with_traceback(None) from None  # so that it ends at the caller's line and this one

    def store(self, key: str, default: object = _REQUIRED) -> StoreReference:
        """Declare a key of the run's store, and return a reference to it.

        Args:
            key: Its name.
            default: Its value, or the text of it, for triggers without one. Without a default, each trigger
                has to give the key, unless it was declared before.

        Raises:
            GraphInvalid: the key is not valid, or was declared in another way before.
        """
        __tracebackhide__ = True
        config = self.store_config
        known = key in config.default_values or key in config.required_keys
        try:
            text = None if default is _REQUIRED else plain_text(default)
            if known and (text is None or config.default_values.get(key) == text):
                return StoreReference(key)
            if known:
                raise ValueError("was declared before, with another default or none")
            update: dict[str, Any]
            if text is None:
                update = {"required_keys": [*config.required_keys, key]}
            else:
                update = {"default_values": {**config.default_values, key: text}}
            # A new object: other graphs may use the present one too.
            self.store_config = StoreConfigModel(**{**dict(config), **update})
        except ValidationError as error:
            raise GraphInvalid(
                f"store key {key!r} of graph {self.name!r} cannot be declared", readable_errors(error)
            ) from None
        except ValueError as error:
            raise GraphInvalid(f"store key {key!r} of graph {self.name!r} {error}") from None
        return StoreReference(key)

    def limit(
        self,
        name: str,
        *,
        at_most: int | None = None,
        starts: int | None = None,
        period: float | None = None,
    ) -> Limit:
        """Declare a limit of the namespace, and return it for ``limits=`` of ``add``.

        It applies to all runtimes and all graphs of the namespace that name it, together. Storing the graph
        makes the limit, or changes it if the graph says something else of it than when it was stored last.
        With the name alone, a limit that was made elsewhere is named: by another graph, or by ``limits set``.

        Args:
            name: Its name in the namespace.
            at_most: States at once; 0 stops all. Defaults to no limit.
            starts: Starts within any ``period`` seconds; 0 stops all. Defaults to no limit.
            period: Seconds, from 1 to 31 days. Given if ``starts`` is.

        Raises:
            GraphInvalid: an argument is not valid, or the limit was declared in another way before.
        """
        __tracebackhide__ = True
        what = f"limit {name!r} of graph {self.name!r}"
        if period is not None and not MIN_PERIOD_MS <= period * 1000 <= MAX_PERIOD_MS:
            days = MAX_PERIOD_MS // 86_400_000
            raise GraphInvalid(f"the period of {what} must be from 1 s to {days} days, not {period:g} s")
        try:
            if at_most is starts is period is None:
                return Limit(LimitModel(name=name, at_most=0).name)
            period_ms = None if period is None else round(period * 1000)
            limit = LimitModel(name=name, at_most=at_most, starts=starts, period_ms=period_ms)
        except ValidationError as error:
            raise GraphInvalid(f"{what} cannot be declared", readable_errors(error)) from None
        if limit not in self.limits:
            if any(other.name == limit.name for other in self.limits):
                raise GraphInvalid(f"{what} was declared before, with other values")
            self.limits = [*self.limits, limit]
        return Limit(limit.name)

    def _wrong_arguments(
        self, name: str, namespace: str | None, nodes: Iterable[AddedNode[Any]], limits: Iterable[object]
    ) -> Iterator[str]:
        """Yield what is wrong with the arguments other than inputs."""
        if self.nodes and not self._added:
            yield "the graph's nodes were given as a list: add all of them, or list all of them"
        if namespace is None:
            yield "it has no namespace: give namespace= to Graph(...) for all nodes, or here"
        if name.strip() in self._added:
            yield f"there is another {name.strip()!r}: give this one another name by identifier="
        for each in nodes:
            if not isinstance(each, AddedNode):
                value = f"class {each.__name__}" if isinstance(each, type) else type(each).__name__
                yield f"after= and unites= take what add() returned, not a {value}"
            elif self._added.get(node_of(each).identifier) is not node_of(each):
                yield f"{node_of(each).identifier!r} is a node of another graph"
        for limit in limits:
            if not isinstance(limit, Limit):
                shown = f"graph.limit({limit!r})" if isinstance(limit, str) else "graph.limit(NAME)"
                yield f"limits= takes what limit() returned, not a {type(limit).__name__}: write {shown}"


def _unites(unites: AddedNode[Any] | None, strategy: str | None) -> UnitesModel | None:
    if not isinstance(unites, AddedNode):
        return None
    fields = {} if strategy is None else {"strategy": strategy}
    return UnitesModel.model_validate({"identifier": node_of(unites).identifier, **fields})
