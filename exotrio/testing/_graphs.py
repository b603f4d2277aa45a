"""``run_graph``: a graph from its trigger to its end, and the result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, overload

import trio

from exotrio._fields.models import HasOutputs, M, Values
from exotrio._nodes.base import BaseNode
from exotrio._nodes.outcome import CheckpointText
from exotrio._runtime.runtime import Runtime
from exotrio._util.exceptions import ungrouped
from exotrio._util.words import listed
from exotrio._wire.vocabulary import ERRORED, MAX_WAIT_MS, PENDING, RunStatus, StateStatus, from_ms
from exotrio.errors import ConfigurationError
from exotrio.graph import MAX_LIMIT, Graph
from exotrio.graph.references import AddedNode, NodeOfRun, place_of, read_outputs
from exotrio.testing._nodes import continuing, stored_checkpoint

if TYPE_CHECKING:
    from exotrio.client._state_manager import StateManager
    from exotrio.testing._events import EventSender

T = TypeVar("T")

MAX_RUNS = 1_000
"""Children that are looked at to find out whether all of them wait."""
FIRST_INTERVAL = 0.25
"""Seconds after which it is first checked whether all that is left of a run waits for events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestedState:
    """One execution of a node.

    Attributes:
        identifier: Identifier of the node in the graph.
        status: Its status at the end of the run.
        inputs: Field to text.
        outputs: Field to text; empty without any.
        error: The text of its error, with the traceback; None without one.
        checkpoint: Field to text of the checkpoint with which it would continue; None without one, as after a
            success.
    """

    __test__ = False  # else pytest collects it, as every class that begins with Test

    identifier: str
    status: StateStatus
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    error: str | None
    checkpoint: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class GraphRun:
    """The result of a run.

    Attributes:
        status: SUCCESS or FAILED.
        states: All states, in order of creation; a retry is a separate state.
        places: Identifier of each node of the graph, whether it ran or not, to the name of its class.
    """

    status: RunStatus
    states: tuple[TestedState, ...]
    places: Mapping[str, str]

    def of(self, node: NodeOfRun) -> list[TestedState]:
        """Return the states of one of the graph's nodes.

        Args:
            node: What ``graph.add`` returned; or its class, if it is once in the graph; or its identifier.

        Raises:
            NotFound: the graph has no such node.
            ConfigurationError: several nodes of the graph are of this class.
        """
        identifier = place_of(node, self.places, "the graph")
        return [state for state in self.states if state.identifier == identifier]

    @overload
    def outputs(self, node: str) -> list[dict[str, Any]]: ...
    @overload
    def outputs(self, node: AddedNode[T]) -> list[T]: ...
    @overload
    def outputs(self, node: type[HasOutputs[M]]) -> list[M]: ...
    @overload
    def outputs(self, node: type) -> list[Any]: ...

    def outputs(self, node: NodeOfRun) -> list[Any]:
        """Return the outputs of each state of one of the graph's nodes that succeeded, oldest first.

        An attempt that was made after another one failed is a later state.

        Args:
            node: As for ``of``, which raises the same errors.

        Returns:
            For each state an ``Outputs`` of the node's class; a dict of texts if the class is not known,
            since the node was added, or is named here, by its name.
        """
        done = [state for state in self.of(node) if state.status is StateStatus.SUCCESS]
        return [read_outputs(node, state.outputs) for state in done]

    @property
    def errors(self) -> list[str]:
        """The errors of all states that failed and were not retried."""
        return [state.error or "" for state in self.states if state.status in ERRORED]


async def run_graph(
    graph: Graph,
    nodes: Sequence[type[BaseNode]],
    *,
    inputs: Values | None = None,
    store: Mapping[str, object] | None = None,
    checkpoints: Mapping[NodeOfRun, Values] | None = None,
    events: Mapping[str, Values] | None = None,
    graphs: Sequence[Graph] = (),
    timeout: float = 3600.0,
) -> GraphRun:
    """Run a graph from its trigger to its end, by a real state manager in memory and a real runtime.

    The state manager's clock is Trio's: under ``trio.testing.MockClock`` (``autojump_clock`` of
    pytest-trio) delays of retries and of ``ReQueueAfterSignal`` take no time. It cannot be used with
    nodes that run elsewhere (a plain ``def execute``, or ``runs_in`` ``"asyncio"`` or ``"process"``): Trio's
    mock clock does not wait for them.

    When all that is left waits for events, the state manager's clock is set to the first deadline: a wait of
    three days takes no time, with any clock of Trio's.

    Args:
        graph: The graph. All its nodes are in one namespace.
        nodes: The node classes that it names, and those of other graphs that run.
        inputs: Inputs of its first node in place of those in the graph: an instance of its ``Inputs``, or a
            dict of values or their texts. Defaults to none.
        store: The run's store, values or their texts. Defaults to nothing.
        checkpoints: Node (as for ``GraphRun.of``) to what an earlier execution of its states stored: an
            instance of its ``Checkpoint``, or a dict as for ``inputs``. Not for nodes that run in processes.
            Defaults to none.
        events: Name of an event to its fields, as for ``inputs``; all are sent right after the trigger, and
            to each child that waits for one. Defaults to none.
        graphs: Graphs that nodes call. Those that a graph names are known without it. Defaults to none.
        timeout: Seconds it may take, on Trio's clock. Defaults to an hour.

    Returns:
        The result. A node that raises makes a FAILED run, not an exception here.

    Raises:
        ConfigurationError: node classes that are not usable, nodes of several namespaces, or a value without
            a form as text.
        NotFound: the graph has no node that ``checkpoints`` names.
        GraphInvalid: the graph is not valid; ``problems`` names each reason.
        RequestRefused: inputs or store do not fit the graph and its nodes.
        trio.TooSlowError: the run did not end in time; the message says which states have not ended, and
            why they wait. Or all that is left waits without a limit for events that are not in ``events``.

    Cancellation:
        Cancels running nodes, which have 5 s to clean up; then nothing is left.
    """
    # Here, since run_node needs none of these, and they are slow to import.
    from exotrio.client._state_manager import StateManager
    from exotrio.manager import embedded
    from exotrio.testing._events import EventSender, VirtualClock

    namespace = namespace_of(graph, *graphs)
    clock = VirtualClock()
    async with (
        embedded(":memory:", clock=clock) as transport,
        StateManager(namespace, transport=transport) as manager,
    ):
        runtime = Runtime(
            namespace, "test", with_checkpoints(graph, nodes, checkpoints or {}), transport=transport
        )
        with ungrouped():
            async with trio.open_nursery() as nursery:
                await nursery.start(runtime.run)
                run_id = await start(manager, graph, graphs, inputs, store)
                sender = EventSender(events or {}, None, clock, [])
                for name in events or ():
                    await sender.send(manager, run_id, name)
                status = await wait(manager, run_id, timeout, sender)
                runtime.stop()
        return await result(manager, graph, run_id, status)


def with_checkpoints(
    graph: Graph, nodes: Sequence[type[BaseNode]], checkpoints: Mapping[NodeOfRun, Values]
) -> list[type[BaseNode]]:
    """Return the node classes so that their states begin with these checkpoints."""
    places = {node.identifier: node.node_name for node in graph.nodes}
    by_name = {node.__name__: node for node in nodes}
    stored: dict[str, dict[str, CheckpointText]] = {name: {} for name in by_name}
    for node, value in checkpoints.items():
        identifier = place_of(node, places, "the graph")
        if (name := places[identifier]) in by_name:
            stored[name][identifier] = stored_checkpoint(by_name[name], value)
    return [continuing(node, by_place) if (by_place := stored[node.__name__]) else node for node in nodes]


def namespace_of(*graphs: Graph) -> str:
    """Return the namespace of all nodes of graphs; raise ConfigurationError if there are several."""
    namespaces = {node.namespace for graph in graphs for node in graph.nodes}
    graph = graphs[0]
    if len(namespaces) > 1:
        raise ConfigurationError(
            f"graph {graph.name!r} has nodes in several namespaces: {', '.join(sorted(namespaces))}",
            fix="a runtime has one; test it at a state manager with a runtime for each",
        )
    (namespace,) = namespaces or {"test"}  # the state manager says what is wrong with a graph without nodes
    return namespace


async def start(
    manager: StateManager,
    graph: Graph,
    graphs: Sequence[Graph],
    inputs: Values | None,
    store: Mapping[str, object] | None,
) -> str:
    """Declare a graph, with others and those that they name, start a run of it, and return its id.

    A limit that is declared elsewhere has room for all here.
    """
    every = {each.name: each for other in (*graphs, graph) for each in (*other.named_graphs(), other)}
    named = {limit.name for each in every.values() for node in each.nodes for limit in node.limits}
    declared = {limit.name for each in every.values() for limit in each.limits}
    for name in sorted(named - declared):
        await manager.set_limit(name, at_most=MAX_LIMIT)
    for each in every.values():
        # What is tested is the code at hand, whichever version it has.
        await manager.upsert_graph(each.model_copy(update={"version": None}))
    triggered = await manager.trigger(graph.name, inputs=inputs, store=store)
    return str(triggered["run_id"])


async def wait(
    manager: StateManager,
    run_id: str,
    timeout: float,
    sender: EventSender,
) -> RunStatus:
    """Wait until a run has ended, and return its status; TooSlowError says which states have not ended.

    When all that is left of it waits, it and its children get the events that they wait for.
    """
    # With long intervals: under a mock clock each request costs time, and the answer comes at the end.
    interval, max_interval = FIRST_INTERVAL, from_ms(MAX_WAIT_MS)
    try:
        with trio.fail_after(timeout):
            while True:
                with trio.move_on_after(interval):
                    return (await manager.wait(run_id, poll_interval=max_interval)).status
                await _skip_waits(manager, run_id, sender)
                interval = min(2 * interval, max_interval)
    except NothingLeft as error:
        raise trio.TooSlowError(str(error)) from None
    except trio.TooSlowError:
        states = [each for each in (await manager.run(run_id)).nodes if each.status in PENDING]
        waiting = Counter(f"{state.identifier} is {state.status}" for state in states)
        # Of those that wait alike, the reason of the first.
        first = {f"{state.identifier} is {state.status}": state.id for state in reversed(states)}
        parts = []
        for text, count in waiting.items():
            why = (await manager.history(first[text])).waits_for
            text += f" ({count} states)" * (count > 1)
            parts.append(f"{text}: {why.text}" if why else text)
        raise trio.TooSlowError(f"the run did not end in {timeout:g} s: {listed(parts)}") from None


class NothingLeft(Exception):
    """All that is left of a run waits for events, without a limit."""


async def _skip_waits(manager: StateManager, run_id: str, sender: EventSender) -> None:
    """If all that is left of a run waits, send it and its children the events that they wait for; if there
    are none, and the children only wait, too, let the time pass until the first deadline."""
    if not await _only_waits(manager, run_id):
        return
    waits, is_idle = [(run_id, each) for each in (await manager.events(run_id)).waiting], True
    # All others are its children, the newest first.
    others = (await manager.find_runs(status=RunStatus.PENDING, limit=MAX_RUNS)).runs
    for child in [each.run_id for each in reversed(others) if each.run_id != run_id]:
        if await _only_waits(manager, child):
            waits += [(child, each) for each in (await manager.events(child)).waiting]
        else:
            is_idle = False
    if await sender.send_awaited(manager, waits) or not is_idle:
        return
    if deadlines := [each.until for _, each in waits if each.until is not None]:
        sender.clock.skip_to(min(deadlines))
    elif waits:
        names = listed(dict.fromkeys(repr(each.name) for _, each in waits))
        raise NothingLeft(f"all that is left of the run waits for {names}: give it in events=")


async def _only_waits(manager: StateManager, run_id: str) -> bool:
    run = await manager.status(run_id)
    return {status for node in run.nodes for status in node.counts if status in PENDING} == {
        StateStatus.WAITING
    }


async def result(manager: StateManager, graph: Graph, run_id: str, status: RunStatus) -> GraphRun:
    """Return the result of a run of this status."""
    run = await manager.run(run_id)
    states = [await manager.state(graph.name, run_id, node.id) for node in run.nodes]
    stored = {
        state.id: checkpoint.value
        for state in states
        if state.status not in (StateStatus.SUCCESS, StateStatus.PRUNED)
        and (checkpoint := (await manager.history(state.id)).checkpoint)
    }
    return GraphRun(
        status,
        tuple(
            TestedState(
                identifier=state.identifier,
                status=StateStatus(state.status),
                inputs=state.inputs,
                outputs=state.outputs,
                error=state.error,
                checkpoint=stored.get(state.id),
            )
            for state in states
        ),
        {node.identifier: node.node_name for node in graph.nodes},
    )
