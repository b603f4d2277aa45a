"""The base of the bodies of both APIs.

On the wire a time is ISO text in UTC (``2024-01-31T12:00:00.123Z``) and a duration whole milliseconds, in a
field that ends with ``_ms``. What the public client returns has a time as an aware ``datetime`` in UTC and a
duration as float seconds, in a field without the suffix.
"""

import math
from datetime import UTC, datetime
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from exotrio._util.backoff import MAX_DELAY_MS
from exotrio._util.times import from_unix_ms, iso_time, moment_ms
from exotrio._wire.vocabulary import is_run_id
from exotrio.graph import PartByPart


class Body(BaseModel):
    """Base of the bodies. Their validators are built at first use: together they would cost every
    ``import exotrio`` 20 ms."""

    model_config: ClassVar[ConfigDict] = ConfigDict(defer_build=True, serialize_by_alias=True)


def _uuid(text: str) -> str:
    if is_run_id(text):
        return text  # as most clients write it; UUID() takes five times as long
    from uuid import UUID

    return str(UUID(text))


DelayMs = Annotated[int, Field(ge=0, le=MAX_DELAY_MS)]
Texts = Annotated[dict[str, str], PartByPart]
Uuid = Annotated[str, AfterValidator(_uuid)]
TraceContext = Annotated[str, Field(pattern="^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")]
"""A ``traceparent`` of W3C's Trace Context."""


def _in_utc(moment: datetime) -> datetime:
    # The stock state manager sends its local time and leaves the offset out; its image runs in UTC.
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _from_unix_ms(ms: object) -> object:
    return from_unix_ms(ms) if isinstance(ms, int | float) else ms


def _from_ms(ms: object) -> object:
    try:
        return ms / 1000 if isinstance(ms, int | float) else ms
    except OverflowError:
        return math.inf


def _to_ms(seconds: float) -> int | float:
    ms = round(seconds * 1000, 3)
    return int(ms) if ms.is_integer() else ms


Moment = Annotated[datetime, AfterValidator(_in_utc), PlainSerializer(iso_time, when_used="json")]
"""A time: ISO text on the wire."""
UnixMs = Annotated[datetime, BeforeValidator(_from_unix_ms), PlainSerializer(moment_ms, when_used="json")]
"""A time: Unix milliseconds on the wire. Its field has an alias that ends with ``_ms``."""
Seconds = Annotated[float, BeforeValidator(_from_ms), PlainSerializer(_to_ms, when_used="json")]
"""A duration: milliseconds on the wire. Its field has an alias that ends with ``_ms``."""
