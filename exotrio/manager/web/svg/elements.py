"""SVG elements; every attribute and text is escaped here. Pure."""

from __future__ import annotations

from markupsafe import Markup, escape

Value = str | int | float | None
LABEL_ROOM = 0.86
"""Part of the width after which no label begins: it would not fit into the picture, on a phone."""


def element(tag: str, *children: str | Markup, **attributes: Value) -> Markup:
    """Return an element. Children that are markup are kept; plain text is escaped.

    In the name of an attribute ``_`` is replaced by ``-``, and dropped at the end (``class_``). Attributes
    that are None are left out.
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_text(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    if not children:
        return Markup(f"<{tag}{written}/>")
    inner = "".join(escape(child) for child in children)
    return Markup(f"<{tag}{written}>{inner}</{tag}>")


def rect(kind: str, x: float, width: float, *, y: Value = None, height: Value, rx: Value = None) -> Markup:
    """Return a rectangle of a class. ``x`` and ``width`` are parts of the picture's width."""
    return element("rect", class_=kind, x=share(x), width=share(width), y=y, height=height, rx=rx)


def join(parts: list[Markup]) -> Markup:
    return Markup("").join(parts)


def fit(text: str, limit: int) -> str:
    """Return a text of at most ``limit`` characters: pictures do not wrap."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def share(part: float) -> str:
    """Return a length as a percentage of the picture's width, which the page decides."""
    return f"{100 * part:.2f}%"


def _text(value: str | int | float) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(escape(value))
