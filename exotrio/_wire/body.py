"""What the bodies of both APIs are made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from exotrio._util.backoff import MAX_DELAY_MS
from exotrio.graph import PartByPart


class Body(BaseModel):
    """Base of the bodies. Their validators are built at first use: all of them together would cost
    every ``import exotrio`` 20 ms."""

    model_config = ConfigDict(defer_build=True)


DelayMs = Annotated[int, Field(ge=0, le=MAX_DELAY_MS)]
Texts = Annotated[dict[str, str], PartByPart]
