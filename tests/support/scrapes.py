"""Requests to a health port, and what a scrape in Prometheus' text format says."""

from __future__ import annotations

import time
import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from tests.support.processes import PATIENCE

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get(url: str, *, patience: float = PATIENCE, **headers: str) -> tuple[int, str]:
    """Return status and text of an answer."""
    try:
        with _opener.open(urllib.request.Request(url, headers=headers), timeout=patience) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def until(url: str, status: int, said: str | None = None) -> str:
    """Ask until an answer has this status, and says this; return its text."""
    for _ in range(int(PATIENCE / 0.02)):
        found, text = get(url)
        if found == status and said in (None, text):
            return text
        time.sleep(0.02)
    raise AssertionError(f"{url} answers {found}: {text}")


def values_in(text: str) -> dict[str, float]:
    """Return ``name{label="value"}`` to value."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def labels_in(text: str) -> dict[str, set[str]]:
    """Return the name of each metric, as it is asked for, to the names of its labels."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                name = family.name if family.type == "histogram" else sample.name
                found.setdefault(name, set()).update(set(sample.labels) - {"le"})
    return found
