"""The fields of a node's models: how models become texts and back.

The state manager keeps strings, and the stock one requires that each field is declared as a plain string.
So a typed field is declared as one, and its values are encoded as texts by ``codecs``. A model whose fields
are all ``str`` needs none of this: ``fields_of`` returns None for it. A field with an alias is registered and
sent under that name, as in the model's JSON schema.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from enum import Enum
from functools import lru_cache
from typing import Any, Protocol, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError

from exotrio._fields.allowed import field_problems, is_typed
from exotrio._fields.codecs import (
    codec_of,
    name_of,
    reason_of,
    text_of,
)
from exotrio._fields.declared import VALUES, kind_of, lenient_fields, values_schema
from exotrio._util.json import NotJson, decode
from exotrio._util.words import readable_errors
from exotrio.errors import ConfigurationError, FieldsInvalid

M = TypeVar("M", bound=BaseModel)
Model = TypeVar("Model", bound=BaseModel, covariant=True)
Values = BaseModel | Mapping[str, object]
"""Values by name: an instance of the model that has them as fields; or a dict, also with texts of values."""


class NoneText(str):
    """The text of None among values of unknown types: of which it is one, ``graph.values`` finds out."""


NONE = NoneText("null")
_STR = frozenset({str})
_ANY = TypeAdapter[object](object, config=ConfigDict(ser_json_inf_nan="constants"))  # NaN is not null


class HasOutputs(Protocol[Model]):
    """A node, as far as type checkers have to know its class."""

    @property
    def Outputs(self) -> type[Model]: ...


class HasCheckpoint(Protocol[Model]):
    """A node with a ``Checkpoint``, likewise."""

    @property
    def Checkpoint(self) -> type[Model]: ...


class Fields:
    """The fields of a model that has no ``field_problems``."""

    def __init__(self, model: type[BaseModel]) -> None:
        self._model = model
        self._codecs = {
            name: codec_of(info.annotation) for name, info in model.model_fields.items() if is_typed(info)
        }
        by_alias = model.model_config.get("serialize_by_alias")
        self._registered = {
            (by_alias and info.serialization_alias) or name: _registered(name, info)
            for name, info in model.model_fields.items()
        }
        self._names = {name: name_of(model.model_fields[name].annotation) for name in self._codecs}

    def decode(self, texts: Mapping[str, Any]) -> BaseModel:
        """Return the model with the values of these texts.

        Raises:
            FieldsInvalid: a text is not a value of its field, or the model rejects the values.
        """
        values, problems = dict(texts), []
        for name, codec in self._codecs.items():
            if name not in texts:
                continue  # the field's default, if it has one
            text = texts[name]
            try:
                values[name] = codec.from_text(text)
            except (ValueError, TypeError, RecursionError) as error:
                length = f"a text of {len(text)} characters" if isinstance(text, str) else type(text).__name__
                problems.append(f"{name}: {length} is not a valid {self._names[name]}: {reason_of(error)}")
        if not problems:
            try:
                return self._model.model_validate(values)
            except ValidationError as error:
                problems = readable_errors(error)
        raise FieldsInvalid(f"the texts do not fit {self._model.__qualname__}", problems)

    def encode(self, value: BaseModel) -> dict[str, Any]:
        """Return the fields of ``value`` as texts.

        Raises:
            FieldsInvalid: a value is not of the type of its field.
        """
        try:
            # By the model, so that its own serializers run. round_trip leaves out computed fields.
            plain = value.model_dump(mode="json", round_trip=True, warnings="error")
            return {
                self._registered.get(name, name): (
                    self._codecs[name].to_text(each) if name in self._codecs else each
                )
                for name, each in plain.items()
            }
        except Exception as error:  # a serializer may be the user's
            wrong = list(self._wrong(value)) or [f"it has no JSON form ({type(error).__name__})"]
            raise FieldsInvalid(
                f"this {self._model.__qualname__} has values that are not of the types of its fields", wrong
            ) from None

    def schema(self) -> dict[str, Any]:
        """Return the model's JSON schema, with typed fields as the strings that ``declared`` reads."""
        schema = self._model.model_json_schema()
        schema.pop("$defs", None)  # only the typed fields refer to them
        lenient = lenient_fields(self._model)
        for name in self._model.model_fields.keys() - self._codecs.keys():
            text = schema["properties"][_registered(name, self._model.model_fields[name])]
            limits = {limit: text[limit] for limit in ("minLength", "maxLength", "pattern") if limit in text}
            if limits and name not in lenient:
                text[VALUES] = {"type": "string", **limits}
            for limit in limits if name in lenient else ():
                del text[limit]
        for name in self._codecs:
            typed = schema["properties"][name]
            plain = {"title": typed.get("title", name), "type": "string"}
            if name not in lenient:
                plain[VALUES] = values_schema(self._model.model_fields[name])
            if "description" in typed:
                plain["description"] = typed["description"]
            schema["properties"][name] = plain
        return schema

    def _wrong(self, value: BaseModel) -> Iterable[str]:
        for name in self._model.model_fields:
            try:
                value.model_dump(mode="json", round_trip=True, warnings="error", include={name})
            except Exception:
                actual = type(getattr(value, name, None)).__name__
                yield f"{name}: its type is {self._names.get(name, 'str')}, but it holds a {actual}"


def to_text(values: BaseModel) -> dict[str, str]:
    """Return the fields of an ``Inputs`` or ``Outputs`` as texts, for example to trigger a run.

    Raises:
        ConfigurationError: a field has a type that cannot be a text.
        FieldsInvalid: a value is not of the type of its field.
    """
    return _checked(type(values)).encode(values)


def from_text(model: type[M], texts: Mapping[str, str]) -> M:
    """Return the ``Inputs`` or ``Outputs`` of texts, for example of the outputs of a state.

    Args:
        texts: Field name to text.

    Raises:
        ConfigurationError: a field has a type that cannot be a text.
        FieldsInvalid: a text is missing, or is not a value of its field.
    """
    values = _checked(model).decode(texts)
    assert isinstance(values, model), "a model validates to itself"
    return values


def checkpoint_of_text(model: type[BaseModel], text: str) -> BaseModel:
    """Return the value of a text that was stored, perhaps by other code.

    Raises:
        FieldsInvalid: it does not fit the class; ``problems`` has the fields, and last the stored form.
    """
    texts: Any = None
    with suppress(NotJson):
        texts = decode(text.encode())
    if not isinstance(texts, dict):
        raise FieldsInvalid("the stored text", ["it is not an object in JSON"])
    fields = fields_of(model)
    problems: list[str] = []
    if "extra" not in model.model_config:
        known = names_of(model)
        problems = [f"{name}: it is stored, but is not a field" for name in texts if name not in known]
    try:
        value = model.model_validate(texts) if fields is None else fields.decode(texts)
        if not problems:
            return value
    except FieldsInvalid as error:
        problems += error.problems
    except ValidationError as error:
        problems += readable_errors(error)
    raise FieldsInvalid("the stored text", [*problems, f"stored are: {', '.join(texts) or 'no fields'}"])


def texts_of(
    what: str,
    values: Values | None,
    model: type[BaseModel] | None = None,
    *,
    none: NoneText | None = None,
) -> dict[str, str]:
    """Return values by name as texts; nothing for None.

    Args:
        what: What they are, for messages: ``inputs``.
        values: The values. In a dict, each is a value or the text of one; an instance gives all its fields.
        model: The model that has them as fields, if it is known: then each value has to be one of its field.
            Texts are not checked.
        none: The text of None where the type is not known. Without it, None is refused there.

    Raises:
        ConfigurationError: they have no form as text, or are of another model; no value is quoted.
    """
    if type(values) is dict and {*map(type, values.values())} <= _STR:
        return values  # the usual case, at once: a list of runs may have a million
    if isinstance(values, BaseModel):
        if model is not None and not isinstance(values, model):
            which = f"of {type(values).__qualname__}, not of {model.__qualname__}"
            raise ConfigurationError(f"the {what} are an instance {which}")
        try:
            return to_text(values)
        except FieldsInvalid as error:
            raise ConfigurationError(error.what, error.problems) from None
    if not isinstance(values, Mapping | None):
        raise ConfigurationError(f"the {what} are a {type(values).__name__}, not a dict or an instance")
    fields = {} if model is None else names_of(model)
    texts: dict[str, str] = {}
    problems = []
    for name, value in (values or {}).items():
        try:
            if isinstance(value, str) and not isinstance(value, Enum):
                texts[name] = value
            elif name in fields:
                texts[name] = field_text(fields[name], value)
            elif value is None and none is not None:
                texts[name] = none
            elif value is None:
                raise ValueError('it is None: leave it out, or write "null" if None is one of its values')
            else:
                texts[name] = plain_text(value)
        except ValueError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise ConfigurationError(f"the {what} have no form as text", problems)
    return texts


def plain_text(value: object) -> str:
    """Return a value for a field of unknown type as text; raise ValueError if it has none."""
    try:
        return text_of(_ANY.dump_python(value, mode="json", round_trip=True))
    except (PydanticSerializationError, ValueError):
        raise ValueError(f"{type(value).__name__} has no form as text") from None


def names_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of ``model`` by the names under which they are registered and sent."""
    model.model_rebuild(raise_errors=False)  # with names that did not exist yet when it was defined
    return {_registered(name, info): info for name, info in model.model_fields.items()}


def _registered(name: str, info: FieldInfo) -> str:
    """Return the name of a field in the model's JSON schema, by which its value is also read."""
    alias = info.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return next((each for each in choices if isinstance(each, str)), name)


def field_text(info: FieldInfo, value: object) -> str:
    """Return a value for one field as text. The text of a value is accepted as it is.

    Only the type of the field and its constraints count, not validators of the model.

    Raises:
        ValueError: it is not a value of the field; the message does not contain it.
    """
    adapter: TypeAdapter[Any] = TypeAdapter(kind_of(info))
    codec = codec_of(info.annotation)
    try:
        return codec.to_text(adapter.dump_python(adapter.validate_python(value), mode="json"))
    except ValidationError as error:
        with suppress(ValueError, TypeError, RecursionError):
            adapter.validate_python(codec.from_text(value))
            return str(value)
        raise ValueError(reason_of(error)) from None


def _checked(model: type[BaseModel]) -> Fields:
    if problems := field_problems(model):
        raise ConfigurationError(f"{model.__qualname__} cannot be encoded as texts", problems)
    return fields_of(model) or Fields(model)


@lru_cache(maxsize=4096)
def fields_of(model: type[BaseModel]) -> Fields | None:
    """Return the fields of ``model``; None if all are ``str`` under their own names."""
    plain = all(
        not is_typed(info) and _registered(name, info) == name for name, info in model.model_fields.items()
    )
    return None if plain else Fields(model)
