"""Where a state stands in its run: the united targets above it, and its path through the fan-outs."""

from __future__ import annotations

from collections.abc import Iterator


def split_groups(groups: str) -> Iterator[tuple[int, int]]:
    """Yield (state, place) of each united target in a chain."""
    for entry in groups.split():
        seq, _, place = entry.partition(":")
        yield int(seq), int(place)


def extend_groups(groups: str, seq: int, place: int) -> str:
    """Return the groups of what hangs below the state ``seq`` of a united target."""
    return f"{groups} {seq}:{place}" if groups else f"{seq}:{place}"


def output_path(path: bytes, index: int) -> bytes:
    """Return the path of output ``index`` of a state: a length and that many bytes, so that paths
    sort in fan-out order."""
    digits = index.to_bytes((index.bit_length() + 7) // 8, "big")
    return path + bytes((len(digits),)) + digits


def child_path(path: bytes, place: int) -> bytes:
    """Return the path of the child at ``place`` of a state with this path."""
    return path + place.to_bytes(2, "big")
