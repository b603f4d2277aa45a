"""The calls of the public client about the events of runs."""

from __future__ import annotations

from datetime import datetime

from exotrio._fields.models import Values, texts_of
from exotrio._http.endpoint import EMBEDDED_URI
from exotrio._wire.events import EventLinkReply, EventLinkRequest, EventRequest, RunEvents, SentEvent
from exotrio._wire.vocabulary import is_run_id
from exotrio.client._calls import checked_query
from exotrio.client._limits import LimitCalls
from exotrio.errors import ConfigurationError, NotFound


class EventCalls(LimitCalls):
    """The calls about events; ``StateManager`` documents what all calls share."""

    async def send(self, run: str, name: str, value: Values | None = None) -> SentEvent:
        """Send an event to a run: the states that wait for it go on, and otherwise it is kept until one does.

        Needs our server. The first value under a name wins; sending the same one again changes nothing, also
        after the run has ended.

        Args:
            run: The id of the run, or its key.
            name: Name of the event, up to 256 characters.
            value: Its fields: an instance of the model that the graph gives to ``wait``, or a dict of values
                or their texts. Defaults to no fields.

        Returns:
            ``created``: whether it was the first one under its name; False also if an earlier try of this
            call arrived whose answer was lost. ``woken``: how many states waited for it. ``similar``: the
            name that was perhaps meant, if no place of the graph waits for this one.

        Raises:
            RequestRefused: another value was sent before, or the run has ended (409); or the value does not
                fit what the graph says that the event has (400).

        Cancellation:
            It may have been sent all the same; sending it again does no harm.
        """
        body = checked_query(EventRequest, name=name, value=texts_of("fields of the event", value))
        path = "run", await self._id_of(run), "events"
        return await self._calls.fetch_native(SentEvent, "POST", path, body=body)

    async def events(self, run: str) -> RunEvents:
        """Return the events that were sent to a run, and what its states wait for. Needs our server.

        Args:
            run: The id of the run, or its key.

        Returns:
            ``sent``, the newest first, and ``waiting``, the oldest first: of each up to 1,000.

        Raises:
            ConfigurationError: runs of several graphs have this key.
        """
        path = "run", await self._id_of(run), "events"
        return await self._calls.fetch_native(RunEvents, "GET", path)

    async def event_link(
        self,
        run: str,
        name: str,
        value: Values | None = None,
        *,
        until: datetime,
        url: str | None = None,
    ) -> str:
        """Return an address by which a person without a key sends one event to a run.

        Needs our server. The address opens a page with one button, which sends the event. It works only for
        this run, event and value. It ends at that time, when the run ends, or when the state manager no
        longer has the key for secrets at rest that made it. Everyone who has the address can use it.

        Args:
            run: The id of the run, or its key.
            value: Its fields, as for ``send``. Defaults to none.
            until: When it stops to work, within a year; a ``datetime`` with its time zone.
            url: The address of the state manager for people. Defaults to the one that this client uses.

        Raises:
            RequestRefused: the run has ended (409); or the value does not fit the event, or is too long for
                an address (400).
            ConfigurationError: the state manager is embedded and not served, or ``until`` has no time zone.

        Cancellation:
            Safe: a link works without being stored; the record of changes may say that it was made.
        """
        if until.tzinfo is None:
            raise ConfigurationError(f"until={until} has no time zone; such as: datetime.now(UTC) + ...")
        base = url or self._calls.http.endpoint.uri
        if base == EMBEDDED_URI:
            fix = "serve it, as `run --serve` and `server` do, or give the address of its server with url="
            raise ConfigurationError("no address leads to the embedded state manager", fix=fix)
        body = checked_query(
            EventLinkRequest, name=name, value=texts_of("fields of the event", value), until=until
        )
        path = "run", await self._id_of(run), "event-link"
        link = await self._calls.fetch_native(EventLinkReply, "POST", path, body=body)
        return f"{base.rstrip('/')}{link.path}"

    async def _id_of(self, run: str) -> str:
        """Return the id of a run, given by its id or its key. A UUID is taken to be an id."""
        if is_run_id(run):
            return run
        runs = (await self.find_runs(key=run, limit=2)).runs
        if not runs:
            raise NotFound(f"there is no run with the id or key {run!r} in {self._calls.namespace!r}")
        if len(runs) > 1:
            graphs = " and ".join(repr(each.graph_name) for each in runs)
            raise ConfigurationError(f"the key {run!r} belongs to runs of {graphs}", fix="give the id of one")
        return runs[0].run_id
