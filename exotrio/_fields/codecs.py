"""Codecs between the values of typed fields and the texts that the state manager keeps: one for each type.

A value that is a string, a number or a truth value in JSON becomes that text without quotes (``2024-01-31``,
``5``, ``true``); lists, dicts and models become JSON, and None becomes ``null``. NaN and the infinities
become ``NaN``, ``Infinity`` and ``-Infinity``; within JSON they are strings, since JSON has no form for them.

Two cases would be ambiguous without a rule. In a field that may also be None, the text ``null`` is put into
JSON quotes, and so is ``null`` that has such quotes already; any other text stays as it is. And a list
arrives in two forms: as its own JSON, or as a JSON array of the texts of its elements, which is what an
aggregated reference makes. So an element that is a JSON string is decoded as the text of a value in both
forms.
"""

from __future__ import annotations

import types
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, NewType, Union, get_args, get_origin
from uuid import UUID

from pydantic import AwareDatetime, NaiveDatetime, TypeAdapter
from pydantic_core import from_json, to_json

from exotrio._util.words import readable_errors

SCALARS = (bool, int, float, Decimal, UUID, datetime, AwareDatetime, NaiveDatetime, date, time, timedelta)


class Codec:
    """Values of one type. The base is ``str``, whose text is the value itself.

    Plain data is what ``model_dump(mode="json")`` makes of a value.
    """

    def to_text(self, plain: Any) -> str:
        """Return the text of a value in plain data."""
        text: str = plain
        return text

    def from_text(self, text: Any) -> Any:
        """Return the value of a text; raise ValueError."""
        if not isinstance(text, str):
            raise ValueError("it must be text")
        return text

    def to_element(self, plain: Any) -> Any:
        """Return the element of a list in JSON for a value in plain data."""
        return self.to_text(plain) if isinstance(plain, str) else plain

    def from_element(self, plain: Any) -> Any:
        """Return the value of an element of a list; raise ValueError."""
        return self.from_text(plain) if isinstance(plain, str) else self.from_plain(plain)

    def from_plain(self, plain: Any) -> Any:
        """Return the value of plain data other than text; raise ValueError."""
        return self.from_text(plain)


class _JsonCodec(Codec):
    """Models, dicts, tuples and sets."""

    def __init__(self, annotation: Any) -> None:
        self._adapter: TypeAdapter[Any] = TypeAdapter(annotation)

    def to_text(self, plain: Any) -> str:
        return _json(plain)

    def from_text(self, text: Any) -> Any:
        return self._adapter.validate_json(super().from_text(text))

    def from_plain(self, plain: Any) -> Any:
        return self._adapter.validate_json(to_json(plain))


class _ScalarCodec(_JsonCodec):
    """Numbers, dates and the like."""

    def to_text(self, plain: Any) -> str:
        return text_of(plain)

    def from_text(self, text: Any) -> Any:
        return self._adapter.validate_strings(Codec.from_text(self, text))


class _ChoiceCodec(Codec):
    """The members of an Enum or a Literal."""

    def __init__(self, choices: Iterable[Any]) -> None:
        self._by_text = {text_of(plain_of(choice)): choice for choice in choices}

    def to_text(self, plain: Any) -> str:
        return text_of(plain)

    def from_text(self, text: Any) -> Any:
        try:
            return self._by_text[super().from_text(text)]
        except KeyError:
            raise ValueError(f"it must be one of {', '.join(self._by_text)}") from None

    def from_plain(self, plain: Any) -> Any:
        return self.from_text(text_of(plain))


class _ListCodec(Codec):
    """Lists."""

    def __init__(self, inner: Codec) -> None:
        self._inner = inner

    def to_text(self, plain: Any) -> str:
        return _json(self.to_element(plain))

    def from_text(self, text: Any) -> Any:
        return self.from_plain(from_json(super().from_text(text)))

    def to_element(self, plain: Any) -> Any:
        return [self._inner.to_element(each) for each in plain]

    def from_plain(self, plain: Any) -> Any:
        if not isinstance(plain, list):
            raise ValueError(f"it must be a JSON array, not a {type(plain).__name__}")
        values = []
        for position, each in enumerate(plain):
            try:
                values.append(self._inner.from_element(each))
            except (ValueError, TypeError) as error:
                raise ValueError(f"element {position}: {reason_of(error)}") from None
        return values


class _OptionalCodec(Codec):
    """A value or None."""

    def __init__(self, inner: Codec) -> None:
        self._inner = inner

    def to_text(self, plain: Any) -> str:
        if plain is None:
            return _NONE
        text = self._inner.to_text(plain)
        return _json(text) if _looks_like_none(text) else text

    def from_text(self, text: Any) -> Any:
        text = super().from_text(text)
        if text == _NONE:
            return None
        return self._inner.from_text(from_json(text) if _looks_like_none(text) else text)

    def to_element(self, plain: Any) -> Any:
        if plain is None or isinstance(plain, str):
            return None if plain is None else self.to_text(plain)
        return self._inner.to_element(plain)

    def from_plain(self, plain: Any) -> Any:
        return None if plain is None else self._inner.from_plain(plain)


_NONE = "null"


def codec_of(annotation: Any) -> Codec:
    plain = resolved(annotation)
    if (inner := optional(plain)) is not None:
        return _OptionalCodec(codec_of(inner))
    if plain is str:
        return Codec()
    if plain in SCALARS:
        return _ScalarCodec(annotation)
    if choices := choices_of(plain):
        return _ChoiceCodec(choices)
    if get_origin(plain) is list:
        return _ListCodec(codec_of(get_args(plain)[0]))
    return _JsonCodec(annotation)


def _looks_like_none(text: str) -> bool:
    """Whether ``text`` is ``null``, perhaps within JSON quotes, once or several times."""
    while text.startswith('"'):
        try:
            inner = from_json(text)
        except ValueError:
            return False
        text = inner  # a string, since it began with a quote
    return text == _NONE


def _json(plain: Any) -> str:
    return to_json(plain, inf_nan_mode="strings").decode()


def text_of(plain: Any) -> str:
    """Return the text of plain data: a string without its quotes, anything else as JSON."""
    if isinstance(plain, str):
        return plain
    text = _json(plain)
    return text[1:-1] if text.startswith('"') else text  # NaN and the infinities


def reason_of(error: Exception) -> str:
    """Return what is wrong, without the value."""
    return "; ".join(readable_errors(error))


# -- types


def resolved(annotation: Any) -> Any:
    """Return the type behind Annotated, NewType and ``type`` aliases."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif isinstance(annotation, NewType):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":
            annotation = annotation.__value__
        else:
            return annotation


def optional(annotation: Any) -> Any:
    """Return T for ``T | None``; None for anything else."""
    if get_origin(annotation) not in (Union, types.UnionType):
        return None
    rest = [each for each in get_args(annotation) if each is not types.NoneType]
    return rest[0] if len(rest) == 1 else None


def choices_of(annotation: Any) -> list[Any]:
    """Return the members of an Enum or a Literal; nothing for anything else."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return list(annotation) if isinstance(annotation, type) and issubclass(annotation, Enum) else []


def plain_of(choice: Any) -> Any:
    return choice.value if isinstance(choice, Enum) else choice


def name_of(annotation: Any) -> str:
    """Return the name of a type for messages."""
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
