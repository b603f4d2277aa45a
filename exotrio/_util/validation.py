"""What pydantic found wrong, for people. Pure."""

from __future__ import annotations

from pydantic import ValidationError


def readable_errors(error: ValidationError) -> list[str]:
    """Return each problem in one line, ``field.0: what is wrong``.

    Never ``str(error)`` instead: that quotes the values, which may be secret.
    """
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return [
        ": ".join(filter(None, (".".join(map(str, each["loc"])), each["msg"].removeprefix("Value error, "))))
        for each in found
    ]
