"""What a page is: a template, and fragments that can be rendered again alone when they changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from exotrio._util.durations import format_coarse, format_duration
from exotrio._util.words import percent
from exotrio.manager.engine.workers import Worker
from exotrio.manager.service import Service
from exotrio.manager.store.port import View
from exotrio.manager.web import format
from exotrio.manager.web.assets import asset
from exotrio.manager.web.svg.bar import bar

Data = dict[str, Any]
"""Variables of a template."""
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Asked:
    """What somebody wants to see.

    Attributes:
        namespace: Of the page.
        params: Values from the path.
        query: Values from behind the question mark; of several of one name the last.
        workers: The runtimes heard of lately.
        anonymous: Which nodes were asked for through v0, and when last, on the monotonic clock, ms.
    """

    service: Service
    namespace: str
    params: Mapping[str, str]
    query: Mapping[str, str]
    workers: Sequence[Worker] = ()
    anonymous: Mapping[frozenset[str], int] = field(default_factory=dict)
    monotonic: int = 0

    def now(self) -> Asked:
        """Return the same question, with the runtimes as they are. Called in the loop; queries run in
        threads, where the registry may change under them."""
        now = self.service.monotonic()
        workers = self.service.workers
        return replace(
            self,
            workers=workers.of(self.namespace, now),
            anonymous=workers.anonymous(self.namespace),
            monotonic=now,
        )

    def link(self, *parts: str, **query: object) -> str:
        """Return the address of a page of this namespace."""
        return link(self.namespace, *parts, **query)


Load = Callable[[View, Asked, Collection[str]], dict[str, Data]]
Versions = Callable[[View, Asked], dict[str, Hashable]]


@dataclass(frozen=True)
class Page:
    """One page.

    Attributes:
        path: Its route.
        folder: Of its templates: ``page.html``, and one for each fragment.
        fragments: Parts that change while somebody looks.
        load: Returns the variables of ``page`` and of the fragments asked for. Raises Refused.
        versions: Returns for each fragment something that changes when it does. Must be cheap.
        pace: Least seconds between two refreshes of a fragment, for what costs more.
    """

    path: str
    folder: str
    fragments: tuple[str, ...]
    load: Load
    versions: Versions
    pace: Mapping[str, float] = field(default_factory=dict)


def link(namespace: str, *parts: str, **query: object) -> str:
    """Return the path of a page, with what is not None of ``query``."""
    path = "/" + "/".join(quote(part, safe="") for part in ("ns", namespace, *parts))
    given = {name: value for name, value in query.items() if value not in (None, "")}
    return path + (f"?{urlencode(given)}" if given else "")


def _environment() -> Environment:
    # Always escaped: nothing from users becomes markup. A misspelt name is an error, not a blank.
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    for name in ("ago", "cut", "moment", "number", "short", "value"):
        made.filters[name] = getattr(format, name)
    # The database counts milliseconds, and so does a page.
    made.filters["coarse"] = lambda ms: format_coarse(ms / 1000)
    made.filters["duration"] = lambda ms: format_duration(None if ms is None else ms / 1000)
    made.filters["percent"] = percent
    made.filters["bar"] = bar
    made.globals.update(
        asset=asset, shown_status=format.SHOWN_STATUS, status_class=format.STATUS_CLASS, int=int
    )
    return made


environment = _environment()


def render(template: str, **variables: Any) -> Markup:
    """Return a rendered template."""
    return Markup(environment.get_template(template).render(variables))


def render_fragments(page: Page, data: Mapping[str, Data], common: Data) -> dict[str, Markup]:
    """Return each fragment that ``data`` has, in the element that the script looks for."""
    wrapper = Markup('<div data-fragment="{}">{}</div>')
    return {
        name: wrapper.format(name, render(f"{page.folder}/{name}.html", **common, **data[name]))
        for name in page.fragments
        if name in data
    }
