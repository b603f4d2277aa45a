"""A bar of statuses. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup

from exotrio.manager.web._svg import element, join, share

LEAST = 0.012
"""Share of the bar that even one state of thousands gets: a failure must not be too thin to see."""


def bar(counts: Mapping[str, int], *, height: int = 6) -> Markup:
    """Return a bar that is as wide as its place.

    Args:
        counts: Class of statuses to how many, in the order in which they are shown.
        height: In pixels. Defaults to 6.
    """
    label = ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "no states"
    return element(
        "svg",
        element("title", label),
        element("rect", class_="track", width="100%", height=height),
        pieces(counts, height=height),
        class_="bar",
        width="100%",
        height=height,
        role="img",
    )


def pieces(counts: Mapping[str, int], *, height: int) -> Markup:
    """Return the rectangles of a bar over the whole width of the picture they stand in."""
    total = sum(counts.values())
    if not total:
        return Markup("")
    widths = [max(LEAST, count / total) for count in counts.values()]
    scale = 1 / sum(widths)
    parts, x = [], 0.0
    for name, width in zip(counts, widths, strict=True):
        parts.append(
            element("rect", class_=f"s-{name}", x=share(x), width=share(width * scale), height=height)
        )
        x += width * scale
    return join(parts)
