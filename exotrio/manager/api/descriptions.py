"""What each route of both APIs does, with the bodies that it reads and sends, for ``openapi``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from exotrio._wire import native, operations, overview, v0
from exotrio._wire.graphs import (
    CancelledTriggers,
    GraphPage,
    GraphReply,
    GraphRequest,
    GraphsQuery,
    GraphsReply,
)


@dataclass(frozen=True, slots=True)
class Description:
    """A route: one line about it, and the types of its body, its query and its answer, where it has them.

    An answer that is a text is a media type.
    """

    what: str
    answer: Any = None
    body: Any = None
    query: Any = None
    status: int = 200
    is_open: bool = False


_NS0, _NS = "/v0/namespace/{namespace}", "/exotrio/v1/namespace/{namespace}"

DESCRIPTIONS: dict[str, Description] = {
    "GET /health": Description("Say that the process serves", is_open=True),
    "GET /livez": Description("Say that the process serves", "text/plain", is_open=True),
    "GET /readyz": Description("Say whether the database can be written", "text/plain", is_open=True),
    "GET /metrics": Description("Metrics for Prometheus", "text/plain"),
    "GET /openapi.json": Description("This description", is_open=True),
    "GET /docs": Description("This description as a page", "text/html", is_open=True),
    # -- v0
    "GET /v0/namespaces": Description("List namespaces that have registered nodes"),
    f"PUT {_NS0}/nodes": Description("Register nodes", v0.RegisterReply, v0.RegisterRequest),
    f"GET {_NS0}/nodes": Description("List registered nodes", v0.NodesReply),
    f"GET {_NS0}/graphs": Description("List graphs", GraphsReply),
    f"PUT {_NS0}/graph/{{graph}}": Description(
        "Create or replace a graph", GraphReply, GraphRequest, status=201
    ),
    f"GET {_NS0}/graph/{{graph}}": Description("Show a graph", GraphReply),
    f"POST {_NS0}/graph/{{graph}}/trigger": Description("Start a run", v0.TriggerReply, v0.TriggerRequest),
    f"DELETE {_NS0}/graph/{{graph}}/triggers": Description(
        "Cancel the cron triggers of a graph until it is put again", CancelledTriggers
    ),
    f"POST {_NS0}/states/enqueue": Description("Claim states, without a lease", body=v0.ClaimRequest),
    f"POST {_NS0}/state/{{state_id}}/executed": Description(
        "Report outputs of a state", v0.OutcomeReply, v0.ExecutedRequest
    ),
    f"POST {_NS0}/state/{{state_id}}/errored": Description(
        "Report an error of a state", v0.OutcomeReply, v0.ErroredRequest
    ),
    f"POST {_NS0}/state/{{state_id}}/prune": Description(
        "End a branch at a state", v0.OutcomeReply, v0.PruneRequest
    ),
    f"POST {_NS0}/state/{{state_id}}/re-enqueue-after": Description(
        "Run a state again after some milliseconds", v0.OutcomeReply, v0.RequeueRequest
    ),
    f"POST {_NS0}/state/{{state_id}}/manual-retry": Description(
        "Retry a state that ended badly", v0.StateRetry, v0.ManualRetryRequest
    ),
    f"GET {_NS0}/state/{{state_id}}/secrets": Description(
        "Give the holder of a state the secrets of its node", v0.SecretsReply
    ),
    f"GET {_NS0}/runs/{{page}}/{{size}}": Description("List runs, newest first", v0.RunList),
    f"GET {_NS0}/states/run/{{run_id}}/graph": Description("Show the states of a run", v0.RunGraph),
    f"GET {_NS0}/graph/{{graph}}/run/{{run_id}}/node/{{state_id}}": Description(
        "Show a state", v0.StateDetail
    ),
    # -- native: runtimes
    "GET /exotrio/v1": Description("Say which native API this is", native.Discovery),
    f"POST {_NS}/claim": Description("Claim states under a lease", body=native.NativeClaimRequest),
    f"POST {_NS}/outcomes": Description(
        "Report outcomes, and claim along", native.ItemsReply, list[native.OutcomeItem | native.ClaimItem]
    ),
    f"POST {_NS}/release": Description("Hand states back", native.ItemsReply, native.ReleaseRequest),
    f"POST {_NS}/heartbeat": Description("Renew leases", native.HeartbeatReply, native.HeartbeatRequest),
    # -- native: graphs and runs
    f"GET {_NS}/graphs": Description("List graphs, by pages", GraphPage, query=GraphsQuery),
    f"DELETE {_NS}/graph/{{graph}}": Description(
        "Delete a graph with its runs", operations.DeletedGraph, query=operations.DeletionQuery
    ),
    f"POST {_NS}/graph/{{graph}}/trigger": Description(
        "Start a run, once for an id or a key", v0.TriggerReply, native.NativeTriggerRequest
    ),
    f"POST {_NS}/graph/{{graph}}/runs": Description(
        "Start many runs", native.TriggerManyReply, dict[str, list[native.NativeTriggerRequest]]
    ),
    f"GET {_NS}/runs": Description("Search runs", operations.RunPage, query=operations.RunsQuery),
    f"GET {_NS}/run/{{run_id}}": Description(
        "Show a run, at once or when it has ended", native.Run, query=native.RunQuery
    ),
    f"POST {_NS}/run/{{run_id}}/cancel": Description("Cancel a run", native.Run),
    f"POST {_NS}/run/{{run_id}}/retry": Description(
        "Retry the failed states of a run", operations.RunRetry, operations.RetryRunRequest
    ),
    f"GET {_NS}/run/{{run_id}}/export": Description(
        "Show a run as one page", "text/html", query=overview.ExportQuery
    ),
    f"GET {_NS}/states": Description("Search states", operations.StatePage, query=operations.StatesQuery),
    f"GET {_NS}/state/{{state_id}}": Description("Show the history of a state", operations.StateHistory),
    # -- native: operators
    f"GET {_NS}/overview": Description(
        "Show what happens in a namespace", overview.Overview, query=overview.OverviewQuery
    ),
    f"GET {_NS}/depth": Description(
        "Count the states of each node that wait", overview.QueueDepth, query=overview.DepthQuery
    ),
    f"GET {_NS}/checkup": Description("Show the condition of the state manager", overview.Checkup),
    f"GET {_NS}/workers": Description("List runtimes", overview.RuntimeList),
    f"POST {_NS}/worker/{{worker_id}}/drain": Description("Ask a runtime to drain", overview.CommandReply),
    f"GET {_NS}/worker/{{worker_id}}/tasks": Description("Show the tasks of a runtime", overview.TasksReply),
    f"POST {_NS}/worker/{{worker_id}}/tasks": Description(
        "Ask a runtime for its tasks", overview.CommandReply
    ),
    f"POST {_NS}/node/{{node}}/pause": Description("Claim nothing of a node", operations.PauseReply),
    f"POST {_NS}/node/{{node}}/resume": Description("Claim of a node again", operations.PauseReply),
    f"POST {_NS}/graph/{{graph}}/pause": Description("Let a schedule trigger nothing", operations.PauseReply),
    f"POST {_NS}/graph/{{graph}}/resume": Description("Let it trigger again", operations.PauseReply),
    "POST /exotrio/v1/sign-in-link": Description("Let a browser sign in, once", operations.SignInLink),
    "GET /exotrio/v1/backup": Description("Send a copy of the database", operations.BACKUP_TYPE),
}
"""By method and path."""
