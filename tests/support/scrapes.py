"""Requests to a health port, and what a scrape in Prometheus' text format says."""

from __future__ import annotations

import time
import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from tests.support.processes import TEST_TIMEOUT

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get(url: str, *, timeout: float = TEST_TIMEOUT, **headers: str) -> tuple[int, str]:
    """Return status and text of an answer."""
    try:
        with _opener.open(urllib.request.Request(url, headers=headers), timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def until(url: str, status: int, expected: str | None = None) -> str:
    """Ask until an answer has this status, and says this; return its text."""
    for _ in range(int(TEST_TIMEOUT / 0.02)):
        answered, text = get(url)
        if answered == status and expected in (None, text):
            return text
        time.sleep(0.02)
    raise AssertionError(f"{url} answers {answered}: {text}")


def values_in(text: str) -> dict[str, float]:
    """Return ``name{label="value"}`` to value."""
    values = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            values[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return values


def labels_in(text: str) -> dict[str, set[str]]:
    """Return the name of each metric, as it is asked for, to the names of its labels."""
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                name = family.name if family.type == "histogram" else sample.name
                labels.setdefault(name, set()).update(set(sample.labels) - {"le"})
    return labels
