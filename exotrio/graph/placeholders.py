"""The grammar of ``${{ ... }}`` in the inputs of a graph. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from exotrio._util.words import shortened


@dataclass(frozen=True, slots=True)
class OutputRef:
    """``${{ identifier.outputs.field }}``"""

    identifier: str
    field: str


@dataclass(frozen=True, slots=True)
class StoreRef:
    """``${{ store.key }}``"""

    key: str


Piece = str | OutputRef | StoreRef


class PlaceholderError(ValueError):
    """A text with ``${{`` that does not follow the grammar."""


def parse_placeholders(text: str) -> tuple[Piece, ...]:
    """Split ``text`` into literal pieces and references.

    There is no escape: every ``${{`` opens a placeholder, which ends at the next ``}}``. One that is not
    closed, or has neither form, raises PlaceholderError.
    """
    literal, *rest = text.split("${{")
    pieces: list[Piece] = [literal] if literal else []
    for part in rest:
        content, closed, literal = part.partition("}}")
        if not closed:
            raise PlaceholderError("'${{' is not closed by '}}'")
        pieces.append(_reference(content))
        if literal:
            pieces.append(literal)
    return tuple(pieces)


def lacks_dollar(text: str) -> bool:
    """Whether a text has ``{{`` that does not open a placeholder, as ``${{`` would."""
    return "{{" in text.replace("${{", " ")


def _reference(content: str) -> OutputRef | StoreRef:
    parts = [part.strip() for part in content.split(".")]
    if parts[0] == "store" and (len(parts) == 2 or (len(parts) == 3 and parts[1] == "outputs")):
        return StoreRef(parts[-1])
    if len(parts) == 3 and parts[1] == "outputs":
        return OutputRef(parts[0], parts[2])
    shown = shortened(content, 200)
    raise PlaceholderError(
        f"'${{{{{shown}}}}}' is neither '${{{{ identifier.outputs.field }}}}' nor '${{{{ store.key }}}}'"
    )
