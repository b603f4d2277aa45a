"""The typed fields of a node's models: which types may be, and from inputs to values to outputs.

The state manager keeps strings, and the stock one checks that each field is declared as a plain string.
So a typed field is declared as one, and travels as the text that ``_field_text`` makes of it. Nothing is
done here for a model whose fields are all ``str``: ``fields_of`` has nothing for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from enum import Enum, Flag
from functools import lru_cache
from typing import Any, ForwardRef, Literal, TypeVar, get_args, get_origin
from uuid import UUID

from pydantic import BaseModel, RootModel, ValidationError

from exotrio._nodes.codecs import (
    SCALARS,
    choices_of,
    kind_of,
    name_of,
    optional,
    plain_of,
    reason_of,
    resolved,
    text_of,
)
from exotrio._util.words import readable_errors
from exotrio.errors import ConfigurationError, FieldsInvalid

M = TypeVar("M", bound=BaseModel)

_KEYS = (str, int, UUID, date, datetime)
_ALLOWED = (
    "str, int, float, bool, Decimal, UUID, date, datetime, time, timedelta, an Enum or a Literal; "
    "a list, tuple, set or dict of these, or a model with such fields; or one of all these or None"
)


class Fields:
    """The fields of a model of which some are typed; ``field_problems`` has none for it."""

    def __init__(self, model: type[BaseModel]) -> None:
        self._model = model
        self._kinds = {
            name: kind_of(info.annotation) for name, info in model.model_fields.items() if _is_typed(info)
        }
        self._names = {name: name_of(model.model_fields[name].annotation) for name in self._kinds}

    def decode(self, texts: Mapping[str, Any]) -> BaseModel:
        """Return the model with these values.

        Raises:
            FieldsInvalid: a text is not one of its field's type, or the model does not take the values.
        """
        values, problems = dict(texts), []
        for name, kind in self._kinds.items():
            if name not in texts:
                continue  # the field's default, if it has one
            text = texts[name]
            try:
                values[name] = kind.from_text(text)
            except (ValueError, TypeError, RecursionError) as error:
                length = f"a text of {len(text)} characters" if isinstance(text, str) else type(text).__name__
                problems.append(f"{name}: {length} is no {self._names[name]}: {reason_of(error)}")
        if not problems:
            try:
                return self._model.model_validate(values)
            except ValidationError as error:
                problems = readable_errors(error)
        raise FieldsInvalid(f"the texts do not fit {self._model.__qualname__}", problems)

    def encode(self, value: BaseModel) -> dict[str, Any]:
        """Return the fields of ``value`` as they travel.

        Raises:
            FieldsInvalid: a field holds something that is not of its type.
        """
        try:
            # By the model, so that serializers of its own are heeded. round_trip leaves out what is computed.
            plain = value.model_dump(mode="json", round_trip=True, warnings="error")
            return {
                name: self._kinds[name].to_text(each) if name in self._kinds else each
                for name, each in plain.items()
            }
        except Exception as error:  # serializers are a user's
            wrong = list(self._wrong(value)) or [f"it has no JSON form ({type(error).__name__})"]
            raise FieldsInvalid(
                f"this {self._model.__qualname__} does not hold what its fields say", wrong
            ) from None

    def schema(self) -> dict[str, Any]:
        """Return the model's JSON schema with plain strings in place of the typed fields."""
        schema = self._model.model_json_schema()
        schema.pop("$defs", None)  # only typed fields refer to them
        for name in self._kinds:
            given = schema["properties"][name]
            plain = {"title": given.get("title", name), "type": "string"}
            if "description" in given:
                plain["description"] = given["description"]
            schema["properties"][name] = plain
        return schema

    def _wrong(self, value: BaseModel) -> Iterable[str]:
        for name in self._model.model_fields:
            try:
                value.model_dump(mode="json", round_trip=True, warnings="error", include={name})
            except Exception:
                held = type(getattr(value, name, None)).__name__
                yield f"{name}: its type is {self._names.get(name, 'str')}, but it holds a {held}"


def to_text(values: BaseModel) -> dict[str, str]:
    """Return the fields of an ``Inputs`` or ``Outputs`` as they travel: to trigger a run with them, say.

    Args:
        values: The model.

    Raises:
        ConfigurationError: a field is of a type that cannot travel.
        FieldsInvalid: a field holds something that is not of its type.
    """
    return _checked(type(values)).encode(values)


def from_text(model: type[M], texts: Mapping[str, str]) -> M:
    """Return the ``Inputs`` or ``Outputs`` that texts stand for: the outputs of a state, say.

    Args:
        model: Its class.
        texts: Field name to text.

    Raises:
        ConfigurationError: a field is of a type that cannot travel.
        FieldsInvalid: a text is missing, or is none of its field's type.
    """
    values = _checked(model).decode(texts)
    assert isinstance(values, model), "a model validates to itself"
    return values


def _checked(model: type[BaseModel]) -> Fields:
    if problems := field_problems(model):
        raise ConfigurationError(f"{model.__qualname__} cannot travel as text", problems)
    return fields_of(model) or Fields(model)


@lru_cache(maxsize=4096)
def fields_of(model: type[BaseModel]) -> Fields | None:
    """Return the typed fields of ``model``; None if all its fields are ``str``."""
    return Fields(model) if any(map(_is_typed, model.model_fields.values())) else None


def field_problems(model: type[BaseModel]) -> list[str]:
    """Return what cannot make the round trip through text, one line each."""
    _complete(model)
    problems = []
    for name, info in model.model_fields.items():
        if not _is_typed(info):
            continue
        if (info.alias, info.validation_alias, info.serialization_alias) != (None, None, None):
            problems.append(f"{name}: a typed field travels under its own name: take its alias away")
        elif info.exclude:
            problems.append(f"{name}: a typed field that is excluded does not travel: take exclude away")
        else:
            problems += [f"{name}: {why}" for why in _why_not(info.annotation, ())]
    return problems


def _complete(model: type[BaseModel]) -> None:
    """Look names up again that were not known yet when the class was defined."""
    model.model_rebuild(raise_errors=False)


def _is_typed(info: Any) -> bool:
    return info.annotation is not str


# -- what may travel


def _why_not(annotation: Any, within: tuple[type, ...]) -> list[str]:
    """Return why a value of this type would not come back as it was; nothing if it would."""
    plain = resolved(annotation)
    origin, arguments = get_origin(plain), get_args(plain)
    if (inner := optional(plain)) is not None:
        return _why_not(inner, within)
    if origin is Literal or (isinstance(plain, type) and issubclass(plain, Enum)):
        return _why_no_choice(plain)
    if plain is str or plain in SCALARS:
        return []
    if origin in (list, set, frozenset) or (origin is tuple and arguments):
        return [why for each in arguments if each is not ... for why in _why_not(each, within)]
    if origin is dict:
        key = resolved(arguments[0])
        names = choices_of(key)
        if key in _KEYS or (names and all(isinstance(plain_of(name), str) for name in names)):
            return _why_not(arguments[1], within)
        return [f"{name_of(plain)}: keys of type {name_of(key)} do not come back from JSON: use str or int"]
    if isinstance(plain, type) and issubclass(plain, BaseModel) and not issubclass(plain, RootModel):
        if plain in within:
            return []
        return _why_no_model(plain, (*within, plain))
    if isinstance(plain, ForwardRef):
        return [
            f"{plain.__forward_arg__} is not known where the model is defined: define it in the module itself"
        ]
    return [f"{name_of(plain)} cannot travel as text and come back as it was: use {_ALLOWED}"]


def _why_no_model(model: type[BaseModel], within: tuple[type, ...]) -> list[str]:
    _complete(model)
    problems = []
    for name, info in model.model_fields.items():
        where = f"{model.__name__}.{name}"
        if info.exclude:
            problems.append(f"{where} is excluded and would be lost")
        elif info.validation_alias != info.serialization_alias or info.alias != info.validation_alias:
            problems.append(f"{where} is read under another name than it is written")
        elif info.alias is not None and not model.model_config.get("serialize_by_alias"):
            problems.append(
                f"{where} has an alias: set serialize_by_alias=True in {model.__name__}'s model_config"
            )
        else:
            problems += [f"{where}: {why}" for why in _why_not(info.annotation, within)]
    return problems


def _why_no_choice(choice: Any) -> list[str]:
    values = [plain_of(each) for each in choices_of(choice)]
    if isinstance(choice, type) and issubclass(choice, Flag):
        return [f"{name_of(choice)} is a Flag, whose combinations have no name: use int or a list of an Enum"]
    if not all(value is None or isinstance(value, str | int | float) for value in values):
        return [f"{name_of(choice)}: its values must be text, numbers or truth values"]
    texts = [text_of(value) for value in values]
    if not texts:
        return [f"{name_of(choice)} has no members"]
    if len(set(texts)) < len(texts):
        return [f"{name_of(choice)}: two of its values are the same text"]
    return []
