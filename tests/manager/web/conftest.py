"""A dashboard with an empty database."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.web import Site, open_site


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with open_site() as opened:
        yield opened
