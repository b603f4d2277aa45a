"""What the machine allows: a bare socket, SQLite alone."""

from __future__ import annotations

import json
import socket
import sqlite3
import ssl
import time
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

import trio

from exotrio.manager import embedded
from tests.bench.figures import Plan, Sample
from tests.bench.places import Where, fresh
from tests.bench.work import NAMESPACE

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Loading certificates takes httpx 20 ms a client."""
_CLAIMS = {
    "native": (
        f"/exotrio/v1/namespace/{NAMESPACE}/claim",
        {"worker_id": "bare", "limits": {"Step": 16}, "limit": 16, "claim_id": "bare"},
    ),
    "v0": (f"/v0/namespace/{NAMESPACE}/states/enqueue", {"nodes": ["Step"], "batch_size": 16}),
}


def requests(where: Where, api: str, plan: Plan) -> Iterator[Sample]:
    """Requests per second of a client that does nothing else; the claims find nothing."""
    path, body = _CLAIMS[api]
    rate = _socket_rate(where, path, json.dumps(body).encode(), plan.triggers * 5)
    yield Sample(f"claim, one bare socket ({api})", rate, "req/s")


def _socket_rate(where: Where, path: str, body: bytes, count: int) -> float:
    """One request after the other, without any HTTP library."""
    parts = urlsplit(where["state_manager_uri"])
    head = f"POST {path} HTTP/1.1\r\nhost: {parts.netloc}\r\nx-api-key: {where['key']}\r\n"
    request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        begin = time.perf_counter()
        for _ in range(count):
            connection.sendall(request)
            answer = connection.recv(65536)
            while b"\r\n\r\n" not in answer:
                answer += connection.recv(65536)
            head_, _, rest = answer.partition(b"\r\n\r\n")
            assert head_.startswith(b"HTTP/1.1 200"), head_
            left = int(head_.lower().split(b"content-length:")[1].split()[0]) - len(rest)
            while left > 0:
                left -= len(connection.recv(left))
        return count / (time.perf_counter() - begin)


def sqlite_rate(plan: Plan, batch: int) -> float:
    """States per second if every ``batch`` of them costs one commit that claims and one that records,
    with the rows and indexes of our database, and synchronous=FULL."""
    path = fresh(plan.folder) / "raw.db"

    async def make() -> None:
        async with embedded(path):
            pass

    trio.run(make)
    with closing(sqlite3.connect(path, isolation_level=None, cached_statements=16)) as db:
        db.execute("PRAGMA synchronous = FULL")
        db.execute("BEGIN")
        db.executemany(
            "INSERT INTO states (run, place, node_id, status, inputs, parent, path, enqueue_after, "
            " created_at, updated_at) VALUES (1, 1, 1, 'CREATED', '{\"i\":\"1\"}', 1, x'0101', ?, 1, 1)",
            [(n,) for n in range(plan.states)],
        )
        db.execute("COMMIT")
        begin = time.perf_counter()
        for start in range(1, plan.states + 1, batch):
            seqs = [(seq,) for seq in range(start, start + batch)]
            db.execute("BEGIN IMMEDIATE")
            db.executemany(
                "UPDATE states SET status = 'QUEUED', claim = 'c', token = 't', worker = 'w', manager = 'm',"
                " claimed_at = 1 WHERE seq = ?",
                seqs,
            )
            db.execute("COMMIT")
            db.execute("BEGIN IMMEDIATE")
            db.executemany(
                "UPDATE states SET status = 'SUCCESS', outputs = '{\"i\":\"1\"}', updated_at = 1,"
                " finished_at = 1 WHERE seq = ?",
                seqs,
            )
            db.execute("COMMIT")
        return plan.states / (time.perf_counter() - begin)
