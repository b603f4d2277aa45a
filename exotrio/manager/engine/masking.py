"""Secrets in errors and log lines that runtimes report: masked before they are recorded.

Stock runtimes report errors as they are, and ours masks only the secrets that it gave to the node. The forms
of a large secret, such as a bundle of certificates, take up to a second to build: that happens outside of the
transaction that records the outcomes, for which all other writes would wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from exotrio._util.redaction import NO_SECRETS, Redactor, redactor_of
from exotrio._wire.native import ErroredItem, OutcomeItem
from exotrio.manager.engine import logs
from exotrio.manager.store.cipher import Cipher, open_secrets
from exotrio.manager.store.view import View


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
    """Return outcomes without these secrets, which are given by state."""
    # Once for all outcomes with the same secrets: the cache does not keep the redactors of large ones.
    redactors = {values: redactor_of(values) for values in set(secrets.values())} | {(): NO_SECRETS}
    return [
        _masked(item, redactors[secrets.get(item.state_id, ())]) if has_texts(item) else item
        for item in items
    ]


def _masked(item: OutcomeItem, redactor: Redactor) -> OutcomeItem:
    changes: dict[str, object] = {"logs": logs.masked(item.logs, redactor)}
    if isinstance(item, ErroredItem):
        changes["error"] = redactor.redact(item.error)
    return item.model_copy(update=changes)
