"""Whether the texts of an output's type can be read as an input's type. Pure.

Only the types are known. As with a type checker, the answer is no if some value would not fit: ``None``, a
number with a fraction for an ``int``, a choice that the other type lacks. It is yes if that depends on the
text, as for a ``str``; ``may_not_be_json`` says where that is seldom intended.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any, get_args, get_origin

from pydantic import AwareDatetime, BaseModel, NaiveDatetime

from exotrio._fields.codecs import SCALARS, choices_of, codec_of, optional, plain_of, resolved, text_of

_MOMENTS = (datetime, AwareDatetime, NaiveDatetime)  # whether there is an offset depends on the text
_WIDER: dict[Any, tuple[Any, ...]] = {
    int: (float, Decimal),
    float: (Decimal,),
    Decimal: (float,),
    date: _MOMENTS,
    **dict.fromkeys(_MOMENTS, _MOMENTS),
}
"""A type to the other types that accept the texts of all its values."""
_SEQUENCES = (list, tuple, set, frozenset)


def fits(source: Any, target: Any, *, in_json: bool = False) -> bool:
    """Return whether texts of the type ``source`` may be read as ``target``.

    Args:
        source: The type of an output.
        target: The type of an input.
        in_json: They are elements within JSON, where a number is not a text. Defaults to False.
    """
    source, target = resolved(source), resolved(target)
    if source == target or source is str:
        return True
    if (inner := optional(target)) is not None:
        rest = optional(source)
        return source is type(None) or fits(source if rest is None else rest, inner, in_json=in_json)
    if target is str:
        return not in_json or _is_json_string(source)
    if optional(source) is not None:
        return False
    if choices := choices_of(source):
        return all(_accepts(target, text_of(plain_of(choice))) for choice in choices)
    if source in SCALARS or target in SCALARS or choices_of(target):
        return target in _WIDER.get(source, ())
    return _fits_inside(source, target)


def may_not_be_json(source: Any, target: Any) -> bool:
    """Return whether texts of the type ``source`` fit ``target``, JSON, only if a node wrote such."""
    source, target = (optional(resolved(each)) or resolved(each) for each in (source, target))
    return source is str and not (target is str or target in SCALARS or choices_of(target))


def _is_json_string(source: Any) -> bool:
    if choices := choices_of(source):
        return all(isinstance(plain_of(choice), str) for choice in choices)
    return source in SCALARS and source not in (bool, int, float)


def _accepts(target: Any, text: str) -> bool:
    try:
        codec_of(target).from_text(text)
    except ValueError:
        return False
    return True


def _fits_inside(source: Any, target: Any) -> bool:
    """Return whether lists, dicts and models fit, which are JSON as texts."""
    origins = get_origin(source), get_origin(target)
    if any(origin in _SEQUENCES for origin in origins):
        if not all(origin in _SEQUENCES for origin in origins):
            return False
        ours, theirs = ([each for each in get_args(type) if each is not ...] for type in (source, target))
        if len(ours) == len(theirs):
            return all(fits(one, other, in_json=True) for one, other in zip(ours, theirs, strict=True))
        # A list and a tuple of several: each element of one has to fit that of the other.
        return 1 in (len(ours), len(theirs)) and all(
            fits(one, other, in_json=True) for one in ours for other in theirs
        )
    if origins == (dict, dict):
        (key, value), (other_key, other_value) = get_args(source), get_args(target)
        return fits(key, other_key) and fits(value, other_value, in_json=True)  # keys are texts in JSON
    if _is_model(source) and _is_model(target) and not issubclass(source, target):
        return all(
            name in source.model_fields or not info.is_required()
            for name, info in target.model_fields.items()
        )
    return True


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
