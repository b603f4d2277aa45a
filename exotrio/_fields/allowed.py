"""Which types of fields are allowed: those whose values can be restored from their texts."""

from __future__ import annotations

from datetime import date, datetime
from enum import Enum, Flag
from typing import Any, ForwardRef, Literal, get_args, get_origin
from uuid import UUID

from pydantic import BaseModel, RootModel

from exotrio._fields.codecs import SCALARS, choices_of, name_of, optional, plain_of, resolved, text_of

_KEYS = (str, int, UUID, date, datetime)
_ALLOWED = (
    "str, int, float, bool, Decimal, UUID, date, datetime, time, timedelta, an Enum or a Literal; "
    "a list, tuple, set or dict of these, or a model with such fields; or one of all these or None"
)


def is_typed(info: Any) -> bool:
    """Whether a field is anything but a plain ``str``."""
    return info.annotation is not str


def field_problems(model: type[BaseModel]) -> list[str]:
    """Return why fields could not be restored from their texts, one line each."""
    model.model_rebuild(raise_errors=False)  # with names that did not exist yet when it was defined
    problems = []
    for name, info in model.model_fields.items():
        if not is_typed(info):
            continue
        if (info.alias, info.validation_alias, info.serialization_alias) != (None, None, None):
            problems.append(f"{name}: a typed field has to keep its own name: remove its alias")
        elif info.exclude:
            problems.append(f"{name}: the value of an excluded field would be lost: remove exclude")
        else:
            problems += [f"{name}: {why}" for why in _obstacles(info.annotation, ())]
    return problems


def _obstacles(annotation: Any, within: tuple[type, ...]) -> list[str]:
    """Return why values of this type could not be restored from their texts; nothing if they can."""
    plain = resolved(annotation)
    origin, arguments = get_origin(plain), get_args(plain)
    if (inner := optional(plain)) is not None:
        return _obstacles(inner, within)
    if origin is Literal or (isinstance(plain, type) and issubclass(plain, Enum)):
        return _obstacles_of_choice(plain)
    if plain is str or plain in SCALARS:
        return []
    if origin in (list, set, frozenset) or (origin is tuple and arguments):
        return [why for each in arguments if each is not ... for why in _obstacles(each, within)]
    if origin is dict:
        key = resolved(arguments[0])
        names = choices_of(key)
        if key in _KEYS or (names and all(isinstance(plain_of(name), str) for name in names)):
            return _obstacles(arguments[1], within)
        return [f"{name_of(plain)}: keys of type {name_of(key)} cannot be restored from JSON: use str or int"]
    if isinstance(plain, type) and issubclass(plain, BaseModel) and not issubclass(plain, RootModel):
        if plain in within:
            return []
        return _obstacles_of_model(plain, (*within, plain))
    if isinstance(plain, ForwardRef):
        return [
            f"{plain.__forward_arg__} is not defined where the model is: define it at the top of the module"
        ]
    return [f"{name_of(plain)} cannot be restored from a text: use {_ALLOWED}"]


def _obstacles_of_model(model: type[BaseModel], within: tuple[type, ...]) -> list[str]:
    model.model_rebuild(raise_errors=False)  # with names that did not exist yet when it was defined
    problems = []
    for name, info in model.model_fields.items():
        where = f"{model.__name__}.{name}"
        if info.exclude:
            problems.append(f"{where} is excluded and would be lost")
        elif info.validation_alias != info.serialization_alias or info.alias != info.validation_alias:
            problems.append(f"{where} has different names for reading and writing")
        elif info.alias is not None and not model.model_config.get("serialize_by_alias"):
            problems.append(
                f"{where} has an alias: set serialize_by_alias=True in {model.__name__}'s model_config"
            )
        else:
            problems += [f"{where}: {why}" for why in _obstacles(info.annotation, within)]
    return problems


def _obstacles_of_choice(choice: Any) -> list[str]:
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
