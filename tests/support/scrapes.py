"""What a scrape in Prometheus' text format says."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families


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
