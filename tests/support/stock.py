"""The stock state manager as its clients meet it: API v0 in memory, with the ways that ours does not have.

After protocol.md, for graphs without united nodes and store; of the rules for graphs it knows only that
the nodes have to be registered and that references lead to identifiers of the graph. Its ways:

* Nothing guards re-enqueue-after and manual-retry: they bring finished states back, and what followed
  them is created a second time. Outcomes count in any namespace.
* An id that is none is a 500. So is one of two first registrations at once, and an outcome that its database
  cannot store: more than 16 MiB, or an integer beyond 64 bits. The state stays QUEUED then.
* A path whose slash at the end is missing, or too many, is redirected (307).
* A graph is validated after the answer to its PUT. Read alone it shows defaults in place of what is
  stored; in the list it shows ciphertexts.
* Next states are created after the answer to an outcome. If that fails (a missing output, an invalid graph),
  or the validation of a graph does, the connection is closed under the next request on it: that request is
  executed, and its answer never arrives. A request with ``Connection: close`` is the last on its connection.
* A united node may not refer to the branches that it unites (here: only to the node that it unites on).
* References in a graph are looked up among the identifiers of the version before, if there is one.
* A body that is no JSON is refused before the key is looked at.
* While its database is away it answers claims with nothing, and everything else with 500.
* In front of it is a proxy, which answers in HTML when it cannot reach it, or has lost its answer.
"""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any, Literal
from urllib.parse import unquote

import httpx
import trio

KEY = "the-key-of-stock"
MOMENT = "2026-01-01T00:00:00.660000"
PENDING = {"CREATED", "QUEUED", "EXECUTED"}
DEFAULTS: dict[str, Any] = {
    "retry_policy": {
        "max_retries": 3,
        "strategy": "EXPONENTIAL",
        "backoff_factor": 2000,
        "exponent": 2,
        "max_delay": None,
    },
    "store_config": {"required_keys": [], "default_values": {}},
    "triggers": [],
}

_REFERENCE = re.compile(r"\$\{\{\s*(\w+)\.outputs\.(\w+)\s*\}\}")

Fate = Literal["", "away", "lost"]
"""What the proxy does with a request: pass it on, not pass it on, or lose the answer."""


@dataclass
class State:
    id: str
    node_name: str
    namespace: str
    identifier: str
    graph: str
    run_id: str
    inputs: dict[str, str]
    parents: dict[str, str] = field(default_factory=dict)
    status: str = "CREATED"
    outputs: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    due: float = 0.0
    retry_count: int = 0
    fanout_id: str = ""


class Answer(Exception):
    """An answer; raised from anywhere in a handler."""

    def __init__(self, status: int, body: Any, location: str | None = None) -> None:
        self.status = status
        self.is_json = not isinstance(body, bytes)
        self.cuts_next = False
        """Whether the next request on the same connection gets no answer."""
        self.content = json.dumps(body).encode() if self.is_json else body
        self.location = location

    @property
    def headers(self) -> dict[str, str]:
        kind = "application/json" if self.is_json else "text/html"
        return {"content-type": kind} | ({"location": self.location} if self.location else {})


BAD_GATEWAY = Answer(502, b"<html><h1>502 Bad Gateway</h1></html>")
GATEWAY_FAILS = Answer(500, b"<html><h1>500 Internal Server Error</h1></html>")
BROKEN = Answer(500, {"success": False, "detail": "contact support with your request id"})
MAX_DOCUMENT = 16 * 1024 * 1024
"""Bytes that the database takes for one state."""


def refuse(status: int, detail: str) -> Answer:
    return Answer(status, {"detail": detail})


class Stock:
    """One stock server.

    Args:
        clock: Tells seconds. Defaults to Trio's.

    Attributes:
        proxy: Asked about each request, by method and path.
        proxy_answer: What the proxy answers itself.
        registrations_collide: So many registrations are still to fail.
        looks_pending: So often a graph is seen PENDING, the answer to its PUT included.
        database_away: See above.
        wall_clock: Tells Unix seconds, for the ids of states.
        background: Seconds from the answer to an outcome until its next states exist.
        outcomes_race: Outcomes of one state overtake each other: each finds it QUEUED, and is accepted.
        answered: ``METHOD last-segment`` and status of each request it saw.
        revived: States that were brought back after they had ended.
        sought: The sizes of the claims it saw.
        cut: ``METHOD last-segment`` of each request that was executed and whose answer was cut.
        accepted: Outcomes that were accepted, by state: route and body of each.
    """

    def __init__(self, clock: Callable[[], float] = trio.current_time) -> None:
        self.clock = clock
        self.proxy: Callable[[str, str], Fate] = lambda method, path: ""
        self.proxy_answer = BAD_GATEWAY
        self.registrations_collide = 0
        self.looks_pending = 1
        self.database_away = False
        self.wall_clock: Callable[[], float] = time.time
        self.background = 0.03
        self.outcomes_race = False
        self.nodes: dict[tuple[str, str], dict[str, Any]] = {}
        self.graphs: dict[tuple[str, str], dict[str, Any]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.states: dict[str, State] = {}
        self.answered: list[tuple[str, int]] = []
        self.revived: list[str] = []
        self.sought: list[int] = []
        self.cut: list[str] = []
        self.accepted: dict[str, list[tuple[str, Any]]] = {}
        self._lock = threading.Lock()
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._raises = False
        # As MongoDB makes them: their first four bytes are Unix seconds.
        self._ids = (f"{int(self.wall_clock()):08x}{number:016x}" for number in count(0xA0))

    def statuses(self) -> Counter[str]:
        self._catch_up()
        return Counter(state.status for state in self.states.values())

    def times(self, request_line: str) -> int:
        """Return how often something was asked, ``POST executed`` for example."""
        return sum(one == request_line for one, _ in self.answered)

    def add(self, node_name: str, times: int = 1, namespace: str = "n", **inputs: str) -> list[State]:
        """Put states there that belong to no graph."""
        made = [
            State(next(self._ids), node_name, namespace, "it", "g", "r", inputs, due=self.clock())
            for _ in range(times)
        ]
        self.states |= {state.id: state for state in made}
        return made

    def ask(self, method: str, path: str, key: str | None, content: bytes) -> Answer:
        """Return the answer that arrives, which may be the proxy's."""
        fate = self.proxy(method, path)
        if fate == "away":
            return self.proxy_answer
        with self._lock:  # on a port there are several threads
            self._catch_up()
            self._raises = False
            try:
                answer = self._answer(method, path, key, content)
            except Answer as raised:
                answer = raised
            answer.cuts_next = self._raises
        self.answered.append((_request_line(method, path), answer.status))
        return self.proxy_answer if fate == "lost" else answer

    def _catch_up(self) -> None:
        """Do what is due in the background."""
        now = self.clock()
        due = [task for moment, task in self._later if moment <= now]
        self._later = [(moment, task) for moment, task in self._later if moment > now]
        for task in due:
            task()

    def _answer(self, method: str, path: str, key: str | None, content: bytes) -> Answer:
        if path == "/health":
            return Answer(200, {"message": "OK"})
        known = [(match, route) for route in _ROUTES if (match := route.pattern.fullmatch(path))]
        here = [(match, route) for match, route in known if route.method == method]
        if not here:
            other = path[:-1] if path.endswith("/") else path + "/"
            if any(route.pattern.fullmatch(other) for route in _ROUTES):
                raise Answer(307, b"", location=other)
            raise refuse(405, "Method Not Allowed") if known else refuse(404, "Not Found")
        ((match, route),) = here
        try:
            body = json.loads(content) if content else None
        except ValueError:
            raise Answer(422, {"detail": [{"type": "json_invalid", "loc": ["body", 0]}]}) from None
        if key != KEY:
            raise refuse(401, "Invalid API key")
        if self.database_away and route.handler is not Stock.claim:
            raise BROKEN
        return Answer(route.status, route.handler(self, body, *match.groups()))

    # -- nodes and graphs

    def register(self, body: Any, namespace: str) -> Any:
        if self.registrations_collide:
            self.registrations_collide -= 1
            raise BROKEN
        for node in body["nodes"]:
            self.nodes[namespace, node["name"]] = {**node, "runtime_name": body["runtime_name"]}
        return {"runtime_name": body["runtime_name"], "registered_nodes": body["nodes"]}

    def list_nodes(self, _: Any, namespace: str) -> Any:
        shown = [
            {**node, **_record(namespace), "runtime_namespace": namespace}
            for (where, _), node in self.nodes.items()
            if where == namespace
        ]
        return {"namespace": namespace, "count": len(shown), "nodes": shown}

    def list_namespaces(self, _: Any) -> Any:
        names = sorted({namespace for namespace, _ in self.nodes})
        return {"namespaces": names, "count": len(names)}

    def put_graph(self, body: Any, namespace: str, name: str) -> Any:
        missing = [
            f"Node {node['node_name']} in namespace {node['namespace']} does not exist."
            for node in body["nodes"]
            if (node["namespace"], node["node_name"]) not in self.nodes
        ]
        for node in body["nodes"]:
            referred = {match[1] for text in node["inputs"].values() for match in _REFERENCE.finditer(text)}
            if (unites := node.get("unites")) and referred - {unites["identifier"]}:
                raise refuse(
                    400,
                    "1 validation error for GraphTemplate\n  Value error, not a parent [type=value_error]",
                )
        before = self.graphs.get((namespace, name), {"body": body})["body"]
        known = {place["identifier"] for place in before["nodes"]}
        missing += [
            f"Node {match[1]} does not exist in the graph template"
            for node in body["nodes"]
            for text in node["inputs"].values()
            for match in _REFERENCE.finditer(text)
            if match[1] not in known
        ]
        self._raises = bool(missing)
        self.graphs[namespace, name] = {"body": body, "looks": self.looks_pending, "errors": missing}
        return self._shown(namespace, name, stored=True)

    def get_graph(self, _: Any, namespace: str, name: str) -> Any:
        if (namespace, name) not in self.graphs:
            raise refuse(404, "Graph template not found")
        return self._shown(namespace, name)

    def list_graphs(self, _: Any, namespace: str) -> Any:
        shown = [
            {
                **self._shown(namespace, name, stored=True),
                **_record(namespace),
                "name": name,
                "secrets": dict.fromkeys(graph["body"]["secrets"], "ciphertext"),
            }
            for (where, name), graph in self.graphs.items()
            if where == namespace
        ]
        return {"namespace": namespace, "count": len(shown), "templates": shown}

    def _shown(self, namespace: str, name: str, *, stored: bool = False) -> dict[str, Any]:
        graph = self.graphs[namespace, name]
        pending = graph["looks"] > 0
        graph["looks"] -= 1
        body = graph["body"]
        return {
            **DEFAULTS,
            **({part: body[part] for part in DEFAULTS if part in body} if stored else {}),
            "nodes": [{**node, "next_nodes": node["next_nodes"] or []} for node in body["nodes"]],
            "secrets": dict.fromkeys(body["secrets"], True),
            "created_at": MOMENT,
            "updated_at": MOMENT,
            "validation_status": "PENDING" if pending else "INVALID" if graph["errors"] else "VALID",
            "validation_errors": [] if pending else graph["errors"],
        }

    def trigger(self, body: Any, namespace: str, name: str) -> Any:
        graph = self.graphs.get((namespace, name))
        if graph is None:
            raise refuse(404, f"Graph template not found for {name}")
        if graph["looks"] > 0 or graph["errors"]:
            raise refuse(400, "Graph template is not valid")
        required = graph["body"].get("store_config", {}).get("required_keys", [])
        if missing := set(required) - body["store"].keys():
            raise refuse(400, f"Missing store keys: {missing}")
        places = graph["body"]["nodes"]
        following = {identifier for place in places for identifier in place["next_nodes"] or ()}
        (root,) = [place for place in places if place["identifier"] not in following]
        run_id = str(uuid.uuid4())
        self.runs[run_id] = {"graph": name, "namespace": namespace}
        inputs = {key: body["inputs"].get(key, text) for key, text in root["inputs"].items()}
        state = self._made(root, name, run_id, inputs, {}, self.clock() + body["start_delay"] / 1000)
        self.states[state.id] = state
        return {"status": "CREATED", "run_id": run_id}

    def _made(
        self,
        place: dict[str, Any],
        graph: str,
        run_id: str,
        inputs: dict[str, str],
        parents: dict[str, str],
        due: float,
    ) -> State:
        where = (place["node_name"], place["namespace"], place["identifier"])
        return State(next(self._ids), *where, graph, run_id, inputs, parents, due=due)

    # -- states

    def claim(self, body: Any, namespace: str) -> Any:
        self.sought.append(body["batch_size"])
        taken: list[State] = []
        if not self.database_away:
            taken = [
                state
                for state in self.states.values()
                if state.status == "CREATED"
                and state.namespace == namespace
                and state.node_name in body["nodes"]
                and state.due <= self.clock()
            ][: max(0, body["batch_size"])]
        for state in taken:
            state.status = "QUEUED"
        fields = ("node_name", "identifier", "inputs")
        shown = [{"state_id": state.id, **_fields(state, *fields), "created_at": MOMENT} for state in taken]
        return {"count": len(shown), "namespace": namespace, "status": "QUEUED", "states": shown}

    def _find(self, state_id: str) -> State:
        if not re.fullmatch("[0-9a-f]{24}", state_id):
            raise BROKEN
        if state_id not in self.states:
            raise refuse(404, "State not found")
        return self.states[state_id]

    def _queued(self, route: str, state_id: str, body: Any) -> State:
        state = self._find(state_id)
        if state.status != "QUEUED" and not self.outcomes_race:
            raise refuse(400, "State is not queued")
        if not _can_be_stored(body):
            raise BROKEN
        self.accepted.setdefault(state_id, []).append((route, body))
        return state

    def executed(self, body: Any, _: str, state_id: str) -> Any:
        state = self._queued("executed", state_id, body)
        outputs = body["outputs"] or [{}]
        state.outputs, state.status = outputs[0], "EXECUTED"
        siblings = [replace(state, id=next(self._ids), outputs=output) for output in outputs[1:]]
        self.states |= {sibling.id: sibling for sibling in siblings}
        batch = [state, *siblings]
        try:
            following = [each for sibling in batch for each in self._following(sibling)]
        except LookupError as error:  # one bad sibling fails them all
            self._raises = True
            self._after_the_answer(batch, "NEXT_CREATED_ERROR", [], error=str(error))
        else:
            self._after_the_answer(batch, "SUCCESS", following)
        return {"status": "EXECUTED"}

    def _after_the_answer(
        self, batch: list[State], status: str, following: list[State], error: str | None = None
    ) -> None:
        def run() -> None:
            self.states |= {state.id: state for state in following}
            for state in batch:
                state.status, state.error = status, error

        self._later.append((self.clock() + self.background, run))

    def _following(self, state: State) -> Iterator[State]:
        graph = self.graphs.get((state.namespace, state.graph))
        if graph is None:
            return
        if graph["errors"]:
            raise LookupError("Graph template is not valid")
        places = {each["identifier"]: each for each in graph["body"]["nodes"]}
        parents = {**state.parents, state.identifier: state.id}

        def value(match: re.Match[str]) -> str:
            return str(self.states[parents[match[1]]].outputs[match[2]])

        for identifier in places.get(state.identifier, {}).get("next_nodes") or ():
            inputs = {key: _REFERENCE.sub(value, text) for key, text in places[identifier]["inputs"].items()}
            yield self._made(places[identifier], state.graph, state.run_id, inputs, parents, self.clock())

    def errored(self, body: Any, _: str, state_id: str) -> Any:
        state = self._queued("errored", state_id, body)
        graph = self.graphs.get((state.namespace, state.graph), {"body": {}})
        policy = DEFAULTS["retry_policy"] | graph["body"].get("retry_policy", {})
        again = state.retry_count < policy["max_retries"]
        if again:
            due = self.clock() + policy["backoff_factor"] / 1000
            self._copy(state, due=due, retry_count=state.retry_count + 1)
        state.error, state.status = body["error"], "RETRY_CREATED" if again else "ERRORED"
        return {"status": "ERRORED", "retry_created": again}

    def _copy(self, state: State, **changes: Any) -> State:
        copy = replace(state, id=next(self._ids), status="CREATED", outputs={}, error=None, **changes)
        self.states[copy.id] = copy
        return copy

    def prune(self, body: Any, _: str, state_id: str) -> Any:
        self._queued("prune", state_id, body).status = "PRUNED"
        return {"status": "PRUNED", "enqueue_after": 0}

    def requeue(self, body: Any, _: str, state_id: str) -> Any:
        state = self._find(state_id)
        if state.status not in {"CREATED", "QUEUED"}:
            self.revived.append(state_id)
        state.status, state.due = "CREATED", self.clock() + body["enqueue_after"] / 1000
        return {"status": "CREATED", "enqueue_after": round(state.due * 1000)}

    def manual_retry(self, body: Any, namespace: str, state_id: str) -> Any:
        state = self._find(state_id)
        if state.namespace != namespace:
            raise refuse(404, "State not found")
        if any(
            (each.run_id, each.node_name, each.fanout_id)
            == (state.run_id, state.node_name, body["fanout_id"])
            for each in self.states.values()
        ):
            raise refuse(409, "Duplicate state")
        if state.status in PENDING:
            self.revived.append(state_id)
        copy = self._copy(state, due=self.clock(), retry_count=0, fanout_id=body["fanout_id"])
        state.status = "RETRY_CREATED"
        return {"id": copy.id, "status": "CREATED"}

    def secrets(self, _: Any, namespace: str, state_id: str) -> Any:
        if state_id not in self.states or (namespace, self.states[state_id].graph) not in self.graphs:
            raise BROKEN
        return {"secrets": self.graphs[namespace, self.states[state_id].graph]["body"]["secrets"]}

    # -- looking

    def _states_of(self, run_id: str) -> list[State]:
        return [state for state in self.states.values() if state.run_id == run_id]

    def list_runs(self, _: Any, namespace: str, page: str, size: str) -> Any:
        runs = [run_id for run_id, run in self.runs.items() if run["namespace"] == namespace][::-1]
        begin = (int(page) - 1) * int(size)
        shown = [self._summary(run_id) for run_id in runs[begin : begin + int(size)]]
        return {
            "namespace": namespace, "total": len(runs), "page": int(page), "size": int(size), "runs": shown,
        }  # fmt: skip

    def _summary(self, run_id: str) -> dict[str, Any]:
        statuses = Counter(state.status for state in self._states_of(run_id))
        pending = sum(statuses[status] for status in PENDING)
        errored = statuses["ERRORED"] + statuses["NEXT_CREATED_ERROR"]
        return {
            "run_id": run_id,
            "graph_name": self.runs[run_id]["graph"],
            "success_count": statuses["SUCCESS"] + statuses["PRUNED"],
            "pending_count": pending,
            "errored_count": errored,
            "retried_count": statuses["RETRY_CREATED"],
            "total_count": statuses.total(),
            "status": "PENDING" if pending else "FAILED" if errored else "SUCCESS",
            "created_at": MOMENT,
        }

    def run_graph(self, _: Any, namespace: str, run_id: str) -> Any:
        states = [state for state in self._states_of(run_id) if state.namespace == namespace]
        nodes = [_fields(state, "id", "node_name", "identifier", "status", "error") for state in states]
        edges = [
            {"source": list(state.parents.values())[-1], "target": state.id}
            for state in states
            if state.parents
        ]
        return {
            "root_states": [node for node, state in zip(nodes, states, strict=True) if not state.parents],
            "graph_name": self.runs[run_id]["graph"] if nodes else "",
            "nodes": nodes,
            "edges": edges,
            "node_count": len(nodes),
            "edge_count": len(edges),
            "execution_summary": dict(Counter(state.status for state in states)),
        }

    def state(self, _: Any, namespace: str, graph: str, run_id: str, state_id: str) -> Any:
        if not re.fullmatch("[0-9a-f]{24}", state_id):
            raise refuse(400, "Invalid node id")
        state = self.states.get(state_id)
        if state is None or (state.namespace, state.graph, state.run_id) != (namespace, graph, run_id):
            raise refuse(404, "Node not found")
        shown = ("id", "node_name", "identifier", "run_id", "status", "inputs", "outputs", "error", "parents")
        return {
            **_fields(state, *shown),
            "graph_name": state.graph,
            "created_at": MOMENT,
            "updated_at": MOMENT,
        }


def _can_be_stored(body: Any) -> bool:
    fits = all(-(2**63) <= number < 2**63 for number in _integers(body))
    return fits and len(json.dumps(body)) <= MAX_DOCUMENT


def _integers(value: Any) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _integers(part)


def _request_line(method: str, path: str) -> str:
    return f"{method} {path.rstrip('/').rpartition('/')[2]}"


def _fields(state: State, *names: str) -> dict[str, Any]:
    return {name: getattr(state, name) for name in names}


def _record(namespace: str) -> dict[str, Any]:
    return {"_id": "0" * 24, "namespace": namespace, "created_at": MOMENT, "updated_at": MOMENT}


@dataclass(frozen=True)
class _Route:
    method: str
    pattern: re.Pattern[str]
    handler: Callable[..., Any]
    status: int


_ROUTES = [
    _Route(
        method,
        re.compile(path.replace("*", "([^/]+)").replace("{N}", "/v0/namespace/([^/]+)")),
        handler,
        status,
    )
    for method, path, handler, status in (
        ("PUT", "{N}/nodes/", Stock.register, 200),
        ("GET", "{N}/nodes/", Stock.list_nodes, 200),
        ("GET", "/v0/namespaces", Stock.list_namespaces, 200),
        ("PUT", "{N}/graph/*", Stock.put_graph, 201),
        ("GET", "{N}/graph/*", Stock.get_graph, 200),
        ("GET", "{N}/graphs/", Stock.list_graphs, 200),
        ("POST", "{N}/graph/*/trigger", Stock.trigger, 200),
        ("POST", "{N}/states/enqueue", Stock.claim, 200),
        ("POST", "{N}/state/*/executed", Stock.executed, 200),
        ("POST", "{N}/state/*/errored", Stock.errored, 200),
        ("POST", "{N}/state/*/prune", Stock.prune, 200),
        ("POST", "{N}/state/*/re-enqueue-after", Stock.requeue, 200),
        ("POST", "{N}/state/*/manual-retry", Stock.manual_retry, 200),
        ("GET", "{N}/state/*/secrets", Stock.secrets, 200),
        ("GET", "{N}/runs/*/*", Stock.list_runs, 200),
        ("GET", "{N}/states/run/*/graph", Stock.run_graph, 200),
        ("GET", "{N}/graph/*/run/*/node/*", Stock.state, 200),
    )
]


class StockTransport(httpx.AsyncBaseTransport):
    """A way to a stock server in this process, for virtual time. It adds the key.

    A connection under which the next request will be cut is the first to be used again.
    """

    def __init__(self, stock: Stock) -> None:
        self._stock = stock
        self._cutting = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        content = await request.aread()
        await trio.lowlevel.checkpoint()
        answer = self._stock.ask(request.method, request.url.path, KEY, content)
        if self._cutting:
            self._cutting -= 1
            self._stock.cut.append(_request_line(request.method, request.url.path))
            raise httpx.RemoteProtocolError("Server disconnected without sending a response.")
        self._cutting += answer.cuts_next and request.headers.get("connection") != "close"
        return httpx.Response(answer.status, content=answer.content, headers=answer.headers)


@contextmanager
def on_a_port(stock: Stock) -> Iterator[str]:
    """Serve a stock server on loopback from threads; give its URI."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or each answer on a used connection waits for an ACK
        cuts = False

        def handle_one(self) -> None:
            content = self.rfile.read(int(self.headers.get("content-length", 0)))
            answer = stock.ask(self.command, unquote(self.path), self.headers.get("x-api-key"), content)
            if self.cuts:
                stock.cut.append(_request_line(self.command, self.path))
                self.close_connection = True
                return
            self.cuts = answer.cuts_next
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = do_PUT = do_DELETE = handle_one

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
