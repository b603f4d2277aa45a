"""``Graph``: a graph in Python, declared as a list of nodes or built node by node."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, Unpack, overload

from pydantic import BaseModel, Field, ValidationError, field_validator

from exotrio._fields.models import HasOutputs, M
from exotrio._util.words import readable_errors
from exotrio.errors import GraphInvalid
from exotrio.graph.children import input_problems, outputs_of
from exotrio.graph.conditions import Condition
from exotrio.graph.declaration import GRAPH_NODE, WAIT_NODE, CronTrigger
from exotrio.graph.inputs import Inputs, models_of, node_name, unites_of
from exotrio.graph.limits import Limit
from exotrio.graph.node_model import GraphNodeModel, RunGraphModel, UnitesStrategyEnum
from exotrio.graph.nodes import GraphNode, followed
from exotrio.graph.parts import GraphParts, Parts, list_of_limits, wrong_limits
from exotrio.graph.references import AddedNode, OutputReference, StoreReference, node_of
from exotrio.graph.retry_policy import RetryPolicyModel
from exotrio.graph.versions import Version
from exotrio.graph.waits import NoFields, identifier_of, wait_of

_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_When = Condition | OutputReference | StoreReference | None
_Strategy = UnitesStrategyEnum | Literal["ALL_SUCCESS", "ALL_DONE"]


class Graph(GraphParts):
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
        outputs: Name of each output, for graphs that run this one, to its text, or to several of which the
            first that has a value counts. Defaults to none. ``output`` adds to them.
        on_failure: Another graph of the same namespace, or the name of one. Each time a run of this graph
            ends with errors, a run of that one is started. It gets ``graph``, ``run``, ``place`` and
            ``error``, if it has keys of its store, or inputs of its first node, with these names. Needs our
            server. Defaults to None.
        version: The version of the code that its runs need, to their end: only runtimes of that version
            execute them. Defaults to None: any runtime that has the node. Needs our server.

    Raises:
        pydantic.ValidationError: a field breaks its rule, or does not exist; every problem is named.
    """

    nodes: list[GraphNodeModel] = Field(default_factory=list)
    secrets: dict[str, str] = Field(default_factory=dict, repr=False)
    retry_policy: RetryPolicyModel = Field(default_factory=RetryPolicyModel)
    triggers: list[CronTrigger] = Field(default_factory=list)
    version: Version | None = None

    def __init__(
        self,
        name: str,
        nodes: Sequence[GraphNodeModel | Mapping[str, Any]] | None = None,
        *,
        namespace: str | None = None,
        **parts: Unpack[Parts],
    ) -> None:
        listed: dict[str, Any] = {} if nodes is None else {"nodes": list(nodes)}
        BaseModel.__init__(self, name=name, namespace=namespace, **listed, **parts)
        self.name_graph(parts.get("on_failure"))

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
        when: _When = None,
        otherwise: bool = False,
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
        node: type | str | Graph,
        /,
        *,
        identifier: str | None = None,
        namespace: str | None = None,
        after: AddedNode[Any] | Sequence[AddedNode[Any]] = (),
        unites: AddedNode[Any] | None = None,
        strategy: _Strategy | None = None,
        when: _When = None,
        otherwise: bool = False,
        timeout_minutes: int | None = None,
        timeout: float | None = None,
        retry_policy: RetryPolicyModel | None = None,
        max_rounds: object = None,
        limits: Limit | Sequence[Limit] = (),
        inputs: Mapping[str, object] | None = None,
        **fields: object,
    ) -> AddedNode[Any]: ...

    def add(
        self,
        node: type | str | Graph,
        /,
        *,
        identifier: str | None = None,
        namespace: str | None = None,
        after: AddedNode[Any] | Sequence[AddedNode[Any]] = (),
        unites: AddedNode[Any] | None = None,
        strategy: _Strategy | None = None,
        when: _When = None,
        otherwise: bool = False,
        timeout_minutes: int | None = None,
        timeout: float | None = None,
        retry_policy: RetryPolicyModel | None = None,
        max_rounds: object = None,
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
                whose inputs and outputs are not checked. Or another graph, also this one, of which a run is
                started and waited for: it is given values for its store, and for inputs of its first node,
                and has its outputs. ``Graph(name)`` names a stored one. Needs our server.
            identifier: Name of the node in the graph. Defaults to the name of the class in lower case, with
                underscores between its words: ``Plan`` is ``plan``, ``SendMail`` is ``send_mail``.
            namespace: Namespace that the node is registered in. Defaults to the graph's.
            after: Nodes that it follows, instead of those that it refers to: for an edge without data. It
                runs once after each of them.
            unites: A node before all that it follows: it runs once for each state of that node, when
                everything below that state has ended. Outputs below are lists, ``node.every.output``.
            strategy: ``"ALL_SUCCESS"``, the default: it runs if nothing below failed; or ``"ALL_DONE"``: it
                runs in any case. Only with ``unites``.
            when: The condition under which it runs: a reference to an output of type bool, or a comparison
                such as ``check.kind == "book"`` or ``check.kind.is_in("book", "map")``. If it is not met,
                nothing is created. Defaults to always. Needs our server.
            otherwise: It runs exactly if none of the nodes with ``when`` runs that were added after the same
                node. Defaults to False. Needs our server.
            timeout_minutes: Limit in minutes for one execution here, as in ``GraphNodeModel``.
            timeout: Limit in seconds for one execution here, in place of that of the class. Defaults to that
                of the class. Needs our server.
            retry_policy: When its failed states are tried again. Defaults to the policy of the graph, but to
                none where it runs a graph. Needs our server.
            max_rounds: If the graph runs itself here: how many runs of it may follow each other. Defaults to
                None: 100 may be nested.
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
            child, node = (node, GRAPH_NODE) if isinstance(node, Graph) else (None, node)
            if not isinstance(node, type | str):
                what = f"{type(node).__name__} object cannot be added to graph {self.name!r}"
                raise GraphInvalid(f"a {what}", fix="pass a node class, the name of one, or a graph")
            if (name := identifier) is None:
                words = _WORD.sub("_", node_name(node) if child is None else child.name)
                name = words.lower() if child is None else identifier_of(words)
            model_of_outputs = models_of(node)[1] if isinstance(node, type) else None
            others = after if unites is None else [*after, unites]
            limits = list_of_limits(limits)
            problems = list(dict.fromkeys(self._wrong_arguments(name, namespace, others, limits)))
            if strategy is not None and unites is None:
                problems.append("strategy= is only for a node with unites=")
            options = {"timeout": timeout, "retry_policy": retry_policy, "when": when, "otherwise": otherwise}
            given = [option for option, value in options.items() if value is not None and value is not False]
            if child is None and max_rounds is not None:
                fields["max_rounds"] = max_rounds  # an input like any other
            values = Inputs(node, {**(inputs or {}), **fields}, self._added, self.store_config, given)
            keys = values.limits([each for each in limits if isinstance(each, Limit)])
            condition = None if when is None else values.condition(when)
            problems += values.problems
            if child is not None:
                problems += input_problems(child, child.nodes, values.texts)
            if child is not None and child is not self and max_rounds is not None:
                problems.append("max_rounds= is only for a graph that runs itself")
            model = None
            try:
                runs = {"name": child.name, "max_rounds": max_rounds} if child is not None else None
                model = GraphNodeModel(
                    graph=None if runs is None else RunGraphModel.model_validate(runs),
                    node_name=node_name(node),
                    namespace=namespace or "",
                    identifier=name,
                    inputs=values.texts,
                    unites=unites_of(unites, strategy),
                    timeout_minutes=timeout_minutes,
                    timeout=timeout,
                    retry_policy=retry_policy,
                    when=None if condition is None else condition.model,
                    otherwise=otherwise,
                    limits=keys,
                )
            except ValidationError as error:
                problems += readable_errors(error)
            return self._insert(
                name, model, problems, values, model_of_outputs, after, unites, condition, child
            )
        except GraphInvalid as error:
            raise error.with_traceback(None) from None  # so that it ends at the caller's line and this one

    @overload
    def wait(
        self,
        event: object,
        fields: type[M],
        /,
        *,
        identifier: str | None = None,
        after: AddedNode[Any] | Sequence[AddedNode[Any]] = (),
        when: _When = None,
        otherwise: bool = False,
        timeout: timedelta | None = None,
        on_timeout: Literal["error", "prune"] | M = "error",
    ) -> AddedNode[M]: ...

    @overload
    def wait(
        self,
        event: object,
        fields: None = None,
        /,
        *,
        identifier: str | None = None,
        after: AddedNode[Any] | Sequence[AddedNode[Any]] = (),
        when: _When = None,
        otherwise: bool = False,
        timeout: timedelta | None = None,
        on_timeout: Literal["error", "prune"] = "error",
    ) -> AddedNode[Any]: ...

    def wait(
        self,
        event: object,
        fields: type[BaseModel] | None = None,
        /,
        *,
        identifier: str | None = None,
        after: AddedNode[Any] | Sequence[AddedNode[Any]] = (),
        when: _When = None,
        otherwise: bool = False,
        timeout: timedelta | None = None,
        on_timeout: Any = "error",
    ) -> AddedNode[Any]:
        """Add a place that waits until an event is sent to the run, and return it as ``add`` does.

        Its outputs are the fields of the event: ``approved = graph.wait("approved", Approval, after=plan)``,
        then ``approved.by``. No node runs and no runtime is held meanwhile. Needs our server.

        Args:
            event: Name of the event, up to 256 characters; with references, by an f-string, each state of a
                fan-out waits for a separate event: ``f"approved-{item.id}"``.
            fields: The fields of the event, a model with fields as ``Outputs`` has; those with a default may
                be missing in the event. Defaults to None: it has no fields.
            identifier: Name of the place in the graph. Defaults to the name of the event, up to its first
                reference, as a word: ``approved``.
            after: Nodes that it follows. Defaults to those whose outputs the name refers to. The first node
                of a graph may be one that waits.
            when: The condition under which it waits, as in ``add``; if it is not met, nothing is created.
            otherwise: As in ``add``.
            timeout: How long it waits, up to ten years. Defaults to None: without a limit.
            on_timeout: What its state is then: ``"error"``, the default, which only a retry by hand lets wait
                again; ``"prune"``; or a success with these outputs, an instance of ``fields``.

        Raises:
            GraphInvalid: it cannot stand in this graph; ``problems`` names each reason. Nothing was added.
        """
        __tracebackhide__ = True
        try:
            after = list(after) if isinstance(after, Iterable) else [after]
            values = Inputs(WAIT_NODE, {}, self._added, self.store_config)
            text = values.event(event)
            condition = None if when is None else values.condition(when)
            name = identifier_of(text) if identifier is None else identifier
            problems = list(dict.fromkeys(self._wrong_arguments(name, self.namespace, after, ())))
            problems += values.problems
            model, more = wait_of(
                identifier=name,
                namespace=self.namespace or "",
                event=text,
                fields=fields,
                timeout=timeout,
                on_timeout=on_timeout,
            )
            problems += more
            if model is not None:
                model.when = None if condition is None else condition.model
                model.otherwise = otherwise
            return self._insert(name, model, problems, values, fields or NoFields, after, condition=condition)
        except GraphInvalid as error:
            raise error.with_traceback(None) from None

    def _insert(
        self,
        name: str,
        model: GraphNodeModel | None,
        problems: list[str],
        values: Inputs,
        outputs_model: type[BaseModel] | None,
        after: Iterable[AddedNode[Any]],
        unites: AddedNode[Any] | None = None,
        condition: Condition | None = None,
        child: Graph | None = None,
    ) -> AddedNode[Any]:
        """Add a node; raise GraphInvalid if there are problems, or if it cannot stand here."""
        __tracebackhide__ = True
        if model is not None and not problems:
            target = None if unites is None else node_of(unites)
            before = followed(target, list(dict.fromkeys(map(node_of, after))), values.sources)
            added = GraphNode(
                model=model,
                outputs_model=outputs_model,
                outputs=None if child is None or child is self else outputs_of(child, child.nodes),
                unites=target,
                before=before,
                condition=condition,
                doubts=values.doubts,
            )
            problems += added.problems(next(iter(self._added), None))
            if child is self and added.is_certain_to_run:
                problems.append("the graph would run itself without an end: give it when=, or one before it")
            problems += added.branch_problems() if not problems else ()
            problems += values.reference_problems(added, self._added.values()) if not problems else ()
            if not problems:
                for each in before:
                    each.model.next_nodes = [*(each.model.next_nodes or ()), model.identifier]
                    each.next.append(added)
                self.nodes.append(model)
                self._added[model.identifier] = added
                self.name_graph(child if child is not self and child is not None and child.nodes else None)
                return AddedNode(added)
        raise GraphInvalid(f"node {name!r} cannot be added to graph {self.name!r}", problems)

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
        yield from wrong_limits(limits, self.namespace)
