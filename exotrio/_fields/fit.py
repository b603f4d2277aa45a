"""Whether the values of one type, as texts, are values of another: of an output for an input. Pure.

Only the types are known. So this says no where some value would not fit, as a type checker does: ``None``,
a number with a fraction for an ``int``, a choice that the other lacks. It says yes where only the text can
tell, as for a ``str``.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any, get_args, get_origin

from pydantic import AwareDatetime, BaseModel, NaiveDatetime

from exotrio._fields.codecs import SCALARS, choices_of, codec_of, optional, plain_of, resolved, text_of

_MOMENTS = (datetime, AwareDatetime, NaiveDatetime)  # whether there is an offset, only the text tells
_WIDER: dict[Any, tuple[Any, ...]] = {
    int: (float, Decimal),
    float: (Decimal,),
    Decimal: (float,),
    date: _MOMENTS,
    **dict.fromkeys(_MOMENTS, _MOMENTS),
}
"""A type to those that accept the texts of all its values, beside itself."""
_SEQUENCES = (list, tuple, set, frozenset)


def fits(given: Any, wanted: Any, *, in_json: bool = False) -> bool:
    """Return whether texts of the type ``given`` may stand for one that is declared as ``wanted``.

    Args:
        given: A type.
        wanted: Another.
        in_json: They are of elements in JSON, where a number is not a text. Defaults to False.
    """
    given, wanted = resolved(given), resolved(wanted)
    if given == wanted or given is str:
        return True
    if (inner := optional(wanted)) is not None:
        rest = optional(given)
        return given is type(None) or fits(given if rest is None else rest, inner, in_json=in_json)
    if wanted is str:
        return not in_json or _is_json_string(given)
    if optional(given) is not None:
        return False
    if choices := choices_of(given):
        return all(_accepts(wanted, text_of(plain_of(choice))) for choice in choices)
    if given in SCALARS or wanted in SCALARS or choices_of(wanted):
        return wanted in _WIDER.get(given, ())
    return _fits_inside(given, wanted)


def _is_json_string(given: Any) -> bool:
    if choices := choices_of(given):
        return all(isinstance(plain_of(choice), str) for choice in choices)
    return given in SCALARS and given not in (bool, int, float)


def _accepts(wanted: Any, text: str) -> bool:
    try:
        codec_of(wanted).from_text(text)
    except ValueError:
        return False
    return True


def _fits_inside(given: Any, wanted: Any) -> bool:
    """Return whether lists, dicts and models fit, which are JSON as texts."""
    outer, inner = (get_origin(given), get_args(given)), (get_origin(wanted), get_args(wanted))
    if outer[0] in _SEQUENCES or inner[0] in _SEQUENCES:
        if not (outer[0] in _SEQUENCES and inner[0] in _SEQUENCES):
            return False
        ours, theirs = (tuple(each for each in args if each is not ...) for _, args in (outer, inner))
        if len(ours) == len(theirs):
            return all(fits(one, other, in_json=True) for one, other in zip(ours, theirs, strict=True))
        # Of a tuple of several and a list, each element of one has to fit that of the other.
        return 1 in (len(ours), len(theirs)) and all(
            fits(one, other, in_json=True) for one in ours for other in theirs
        )
    if outer[0] is inner[0] is dict:
        (key, value), (other_key, other_value) = outer[1], inner[1]
        return fits(key, other_key) and fits(value, other_value, in_json=True)  # keys are texts in JSON
    if _is_model(given) and _is_model(wanted) and not issubclass(given, wanted):
        return {name for name, info in wanted.model_fields.items() if info.is_required()} <= {
            *given.model_fields
        }
    return True


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
