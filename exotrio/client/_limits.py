"""The calls of the public client about the limits of a namespace."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from exotrio._util.words import readable_errors
from exotrio._wire.limits import DeletionOfLimit, LimitChange, LimitDetail, LimitInfo, LimitList, RemovedLimit
from exotrio.client._states import StateCalls
from exotrio.errors import ConfigurationError
from exotrio.graph import check_name
from exotrio.graph.limits import period_in_ms

Unlimited = Literal["unlimited"]


class LimitCalls(StateCalls):
    """What ``StateManager`` has for limits."""

    async def limits(self) -> list[LimitInfo]:
        """Return the limits of the namespace, by name. Needs our server."""
        return (await self._calls.fetch_native(LimitList, "GET", ("limits",))).limits

    async def limit(self, name: str) -> LimitDetail:
        """Return a limit with the states that hold it, and how many wait, by key. Needs our server."""
        return await self._calls.fetch_native(LimitDetail, "GET", ("limit", _named(name)))

    async def set_limit(
        self,
        name: str,
        *,
        at_most: int | Unlimited | None = None,
        starts: int | Unlimited | None = None,
        period: float | timedelta | None = None,
    ) -> LimitDetail:
        """Make a limit, or change one while everything runs. Needs our server.

        The next claim obeys it. A lower limit cancels no state. What is not given stays as it is.

        Args:
            at_most: States at once, for each key; 0 stops all, ``"unlimited"`` takes this part away.
            starts: Starts within any ``period`` seconds, for each key; 0 stops all, ``"unlimited"`` takes
                this part away.
            period: Seconds, or a timedelta, from 1 s to 31 days.

        Raises:
            RequestRefused: it would limit nothing, or have starts without a period.

        Cancellation:
            It may have been changed all the same.
        """
        change: dict[str, int | None] = {}
        if at_most is not None:
            change["at_most"] = None if at_most == "unlimited" else at_most
        if starts == "unlimited":
            change |= {"starts": None, "period_ms": None}
        elif starts is not None:
            change["starts"] = starts
        try:
            if period is not None:
                change["period_ms"] = period_in_ms(period)
            body = LimitChange.model_validate(change)
        except ValueError as error:
            raise ConfigurationError(f"limit {name!r} cannot be set", readable_errors(error)) from None
        changed = body.model_dump(mode="json", exclude_unset=True)
        return await self._calls.fetch_native(LimitDetail, "PUT", ("limit", _named(name)), body=changed)

    async def remove_limit(self, name: str, *, force: bool = False) -> list[str]:
        """Delete a limit. Needs our server.

        Args:
            force: Delete it although graphs or waiting states name it: they are not limited by it any more.
                Defaults to False: then that is a reason to refuse.

        Returns:
            The graphs that still name it.

        Raises:
            RequestRefused: graphs or waiting states name it (409).

        Cancellation:
            It may have been deleted all the same.
        """
        path, query = ("limit", _named(name)), DeletionOfLimit(force=force)
        return (await self._calls.fetch_native(RemovedLimit, "DELETE", path, query)).graphs


def _named(name: str) -> str:
    try:
        return check_name(name)
    except ValueError as error:
        raise ConfigurationError(f"the name of a limit {error}") from None
