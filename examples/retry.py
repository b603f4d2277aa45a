"""A flaky call, retried with backoff and jitter, and what each attempt came to.

    python examples/retry.py

The service here answers "503 Service Unavailable" twice before it works. The node knows nothing of
retries: it raises, and the graph's policy decides. Each attempt is a separate state, with its error.
"""

from collections.abc import Awaitable, Callable
from itertools import count

import httpx
import trio
from pydantic import BaseModel

from exotrio import BaseNode, Graph, RetryPolicyModel, Runtime, StateManager
from exotrio.manager import embedded

NAMESPACE = "examples"


class Fetch(BaseNode):
    # An attempt that hangs is an error too, and the next one gets its turn.
    timeout = 5

    class Inputs(BaseModel):
        url: str

    class Outputs(BaseModel):
        body: str

    async def execute(self) -> Outputs:
        async with httpx.AsyncClient(trust_env=False) as client:
            response = await client.get(self.inputs.url)
        if response.is_error:
            raise ConnectionError(f"the service answered {response.status_code} {response.reason_phrase}")
        return self.Outputs(body=response.text)


def graph(url: str) -> Graph:
    # After 0.1 s, 0.2 s, 0.4 s ... at most, each time a random share of it: states that failed
    # together do not come back together.
    policy = RetryPolicyModel.exponential(0.1, retries=5, max_delay=10, jitter="full")
    graph = Graph("retry", namespace=NAMESPACE, retry_policy=policy)
    graph.add(Fetch, url=url)
    return graph


def flaky_service() -> Callable[[trio.SocketStream], Awaitable[None]]:
    """Return a handler that fails the first two requests."""
    requests = count(1)

    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        status, body = ("503 Service Unavailable", "") if next(requests) <= 2 else ("200 OK", "It works.")
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        await stream.send_all((head + body).encode())

    return answer


async def main() -> None:
    async with (
        embedded(":memory:") as transport,
        StateManager(NAMESPACE, transport=transport) as manager,
        trio.open_nursery() as nursery,
    ):
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, flaky_service(), listeners)
        port = listeners[0].socket.getsockname()[1]
        runtime = Runtime(namespace=NAMESPACE, name="retry", nodes=[Fetch], transport=transport)
        await nursery.start(runtime.run)

        await manager.upsert_graph(graph(f"http://127.0.0.1:{port}/"))
        started = await manager.trigger("retry")
        run = await manager.wait(started["run_id"])

        states = await manager.run(run.run_id)
        for number, state in enumerate(states.nodes, start=1):
            attempt = await manager.state("retry", run.run_id, state.id)
            # The error is a traceback of the node's own frames; the last line says what it was.
            shown = attempt.error.splitlines()[-1] if attempt.error else attempt.outputs["body"]
            print(f"attempt {number}: {attempt.status}: {shown}")
        print(f"run: {run.status}")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
