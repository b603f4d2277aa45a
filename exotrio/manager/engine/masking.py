"""Secrets in errors and log lines that runtimes report: masked before they are recorded.

Stock runtimes report errors as they are, and ours masks only the secrets that it gave to the node. The forms
of a large secret, such as a bundle of certificates, take up to a second to build: that happens outside of the
transaction that records the outcomes, for which all other writes would wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from exotrio._util.redaction import NO_SECRETS, redactor_of
from exotrio._wire.native import ErroredItem, OutcomeItem
from exotrio.manager.engine import logs
from exotrio.manager.store.cipher import Cipher, open_secrets
from exotrio.manager.store.port import View


def has_texts(item: OutcomeItem) -> bool:
    """Whether a secret may be in what is stored of an outcome."""
    return isinstance(item, ErroredItem) or bool(item.logs)


def secrets_to_mask(view: View, state_ids: Iterable[str], cipher: Cipher) -> dict[str, Sequence[str]]:
    """Return for each of these states the secrets of its graph that can be decrypted, if there are any."""
    by_seq = {seq: state_id for state_id in state_ids if (seq := view.seq(state_id)) is not None}
    graphs = dict(
        view.execute(
            "SELECT states.seq, runs.graph FROM states JOIN runs ON runs.id = states.run"
            f" WHERE {view.any_of('states.seq')}",
            (view.items(sorted(by_seq)),),
        )
    )
    secrets = open_secrets(view, set(graphs.values()), cipher)
    return {by_seq[seq]: values for seq, graph in graphs.items() if (values := secrets[graph][0])}


def mask(items: Iterable[OutcomeItem], secrets: Mapping[str, Sequence[str]]) -> list[OutcomeItem]:
    """Return outcomes without these secrets, which are given by state."""
    return [_masked(item, secrets.get(item.state_id, ())) if has_texts(item) else item for item in items]


def _masked(item: OutcomeItem, secrets: Sequence[str]) -> OutcomeItem:
    redactor = redactor_of(secrets) if secrets else NO_SECRETS
    changes: dict[str, object] = {"logs": logs.masked(item.logs, redactor)}
    if isinstance(item, ErroredItem):
        changes["error"] = redactor.redact(item.error)
    return item.model_copy(update=changes)
