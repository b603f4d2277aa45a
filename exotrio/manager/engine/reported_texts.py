"""Errors and log lines that runtimes report: secrets in them are masked, and log lines are bounded once more.

Stock runtimes report errors as they are. Ours sends log lines within the bounds, and masks only the secrets
that it gave to the node; the other secrets of the graph are known only here. The forms of a large secret,
such as a bundle of certificates, take up to a second to build. So ``mask`` runs outside of the transaction
that records the outcomes, for which all other writes would wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic_core import to_json

from exotrio._util.redaction import NO_SECRETS, Redactor, redactor_of
from exotrio._wire.native import ErroredItem, LogLine, OutcomeItem
from exotrio._wire.vocabulary import MAX_LOG_BYTES
from exotrio.manager.store.cipher import Cipher, open_secrets
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

MAX_NAME = 200
"""Characters of the level and of the logger of a line."""
NUL = "\N{SYMBOL FOR NULL}"
"""Replaces NUL in texts of nodes. PostgreSQL cannot store NUL, so a repeated error would differ from the
stored one; SQLite measures a text only up to a NUL."""


def has_texts(item: OutcomeItem) -> bool:
    """Whether a secret may be in what is stored of an outcome."""
    return isinstance(item, ErroredItem) or bool(item.logs)


def secrets_to_mask(view: View, state_ids: Iterable[str], cipher: Cipher) -> dict[str, tuple[str, ...]]:
    """Return for each of these states the secrets of its graph that can be decrypted, if there are any."""
    by_seq = {seq: state_id for state_id in state_ids if (seq := view.seq(state_id)) is not None}
    graphs = dict(
        view.execute(
            "SELECT states.seq, runs.graph FROM states JOIN runs ON runs.id = states.run"
            f" WHERE {view.any_of('states.seq')}",
            (view.items(sorted(by_seq)),),
        )
    )
    opened = open_secrets(view, set(graphs.values()), cipher)
    secrets = {graph: tuple(values) for graph, (values, _) in opened.items()}
    return {by_seq[seq]: secrets[graph] for seq, graph in graphs.items() if secrets[graph]}


def mask(items: Iterable[OutcomeItem], secrets: Mapping[str, tuple[str, ...]]) -> list[OutcomeItem]:
    """Return outcomes with the ``secrets`` of their states, by id, masked."""
    # Once for all outcomes with the same secrets: the cache does not keep the redactors of large ones.
    redactors = {values: redactor_of(values) for values in set(secrets.values())} | {(): NO_SECRETS}
    return [
        _masked(item, redactors[secrets.get(item.state_id, ())]) if has_texts(item) else item
        for item in items
    ]


def _masked(item: OutcomeItem, redactor: Redactor) -> OutcomeItem:
    texts = redactor.redact_lines([line.text for line in item.logs])
    logs = [
        line.model_copy(
            update={
                "level": line.level and redactor.redact(line.level),
                "logger": line.logger and redactor.redact(line.logger),
                "text": text,
            }
        )
        for line, text in zip(item.logs, texts, strict=True)
    ]
    changes: dict[str, object] = {"logs": logs}
    if isinstance(item, ErroredItem):
        changes["error"] = redactor.redact(item.error)
    return item.model_copy(update=changes)


def storable_logs(lines: Iterable[LogLine]) -> str:
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


def store_logs(tx: Transaction, logs: Mapping[int, str]) -> None:
    """Store the lines of states, by number, instead of those of an earlier execution."""
    tx.insert(
        "logs", ("state", "lines"), sorted(logs.items()), "(state) DO UPDATE SET lines = excluded.lines"
    )
