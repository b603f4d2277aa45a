"""What executions logged and printed, as it is stored: masked as errors are, and bounded once more.

A runtime sends less than the bounds, and has masked the secrets that it gave to the node. The other secrets
of the graph are only known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pydantic_core import to_json

from exotrio._util.redaction import Redactor
from exotrio._wire.native import LogLine
from exotrio._wire.vocabulary import MAX_LOG_BYTES
from exotrio.manager.store.transaction import Transaction

MAX_NAME = 200
"""Characters of the level and of the logger of a line."""
NUL = "\N{SYMBOL FOR NULL}"
"""Stands for that character in texts of nodes. PostgreSQL stores none, so an error that comes again would be
another one; SQLite measures texts up to it."""


def masked(lines: Sequence[LogLine], redactor: Redactor) -> list[LogLine]:
    """Return log lines without secrets."""
    texts = redactor.redact_lines([line.text for line in lines])
    return [
        line.model_copy(
            update={
                "level": line.level and redactor.redact(line.level),
                "logger": line.logger and redactor.redact(line.logger),
                "text": text,
            }
        )
        for line, text in zip(lines, texts, strict=True)
    ]


def storable(lines: Iterable[LogLine]) -> str:
    """Return log lines as they are stored: JSON, up to ``MAX_LOG_BYTES`` of texts."""
    kept = []
    left = MAX_LOG_BYTES
    for line in lines:
        text = line.text.replace("\0", NUL)
        names = {
            name: value[:MAX_NAME]
            for name, value in (("level", line.level), ("logger", line.logger))
            if value is not None
        }
        size = sum(len(part.encode()) for part in (text, *names.values()))
        if size > left:
            break
        left -= size
        kept.append({**line.model_dump(mode="json", include={"at"}), **names, "text": text})
    return to_json(kept).decode()


def keep(tx: Transaction, logs: Mapping[int, str]) -> None:
    """Store the lines of states, by number, in place of those of an earlier execution."""
    tx.insert(
        "logs", ("state", "lines"), sorted(logs.items()), "(state) DO UPDATE SET lines = excluded.lines"
    )
