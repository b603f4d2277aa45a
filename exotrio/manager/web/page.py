"""Pages: a template each, and fragments of it that are rendered again alone when they change."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, overload
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from exotrio._util.cron import local_time
from exotrio._util.times import format_coarse, format_duration, moment_ms
from exotrio._util.words import percent
from exotrio.manager.queries.graphs import all_namespaces, first_namespace
from exotrio.manager.queries.load import Held
from exotrio.manager.queries.runtimes import Offers, RuntimeRow, offered, runtimes_of
from exotrio.manager.queries.waiting import sentence_of
from exotrio.manager.rules.access import Caller, Permission
from exotrio.manager.rules.errors import NotFound
from exotrio.manager.service import Service
from exotrio.manager.store.effects import WithEffects
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View
from exotrio.manager.web import format
from exotrio.manager.web.guard import Form, path_and_query, read_cookie
from exotrio.manager.web.svg.bars import bar

P = ParamSpec("P")
T = TypeVar("T")
Data = dict[str, Any]
"""Variables of a template."""
HERE = Path(__file__).parent
MAX_TEXT = 200
"""Characters of a text that is searched for."""
THEMES = ("auto", "light", "dark")
THEME_COOKIE = "exotrio_theme"
"""The theme that was chosen. As a cookie, since a page needs it from its first byte, also without the script.
It is for all ports of this machine, unlike the cookie of the session."""
TYPES = {
    "style.css": "text/css; charset=utf-8",
    "live.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
"""Files that pages refer to, under names that change with their content, so that browsers may keep them."""


class FormRejected(Exception):
    """A form that was sent is not accepted: its page is shown again, with what was sent.

    Attributes:
        problems: Name of a field to its problem; an empty name is for a problem of no field.
    """

    def __init__(self, form: Form, problems: Mapping[str, str]) -> None:
        super().__init__(problems)
        self.form = form
        self.problems = problems


@dataclass(frozen=True, kw_only=True)
class PageRequest:
    """A request for a page.

    Attributes:
        query: Of several values with one name it has the last.
        rejected: The form that was not accepted, if the page is shown again for one.
    """

    service: Service
    namespace: str
    params: Mapping[str, str]
    query: Mapping[str, str]
    caller: Caller
    rejected: FormRejected | None = None

    def may(self, permission: str) -> bool:
        """Return whether the caller has a permission in this namespace."""
        return self.caller.may(Permission(permission), self.namespace)

    @overload
    async def write(
        self,
        use_case: Callable[Concatenate[Transaction, str, P], WithEffects[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T: ...

    @overload
    async def write(
        self, use_case: Callable[Concatenate[Transaction, str, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T: ...

    async def write(self, use_case: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a use case in this namespace for the caller."""
        return await self.service.store.write_as(self.caller, use_case, self.namespace, *args, **kwargs)

    def runtimes(self, view: View, held: Held | None = None) -> list[RuntimeRow]:
        """Return the runtimes that sent a request lately; ``held`` is as in ``runtimes_of``."""
        return runtimes_of(view, self.namespace, held)

    def offers(self, view: View) -> Offers:
        """Return the live runtimes that offer each node."""
        return offered(view, self.namespace)

    def link(self, *parts: str, **query: object) -> str:
        """Return the address of a page of this namespace."""
        return link(self.namespace, *parts, **query)


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """A part of a page that is loaded again alone when it may have changed, as after any write to the store.

    Attributes:
        ages: Seconds after which it is loaded again although nothing was written, since it shows ages.
        pace: Minimum seconds between two loads.
    """

    ages: int = 5
    pace: float = 0.0


Load = Callable[[View, PageRequest, Collection[str]], dict[str, Data]]
Versions = Callable[[View, PageRequest], Mapping[str, object]]


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page.

    Attributes:
        folder: Of its templates: ``page.html``, and one for each fragment.
        load: Returns the variables of ``page`` and of the fragments that are named; what only the whole page
            needs is loaded only if ``page`` is among these names. If the variables of ``page`` have
            ``leads_to``, the browser is sent there instead. Raises Refused.
        needs: The permission that its readers need.
        searches: Names in the query of texts that are searched for. A search may read all rows: too much to
            be repeated with every write, so its page is not loaded again.
        own_versions: For a page that knows better than ``Fragment`` when its fragments change: returns for
            each fragment a value that changes when it does. Must be cheap.
    """

    path: str
    folder: str
    fragments: Mapping[str, Fragment]
    load: Load
    needs: Permission = Permission.READ
    searches: Collection[str] = ()
    own_versions: Versions | None = None

    def versions(self, view: View, request: PageRequest) -> Mapping[str, object]:
        """Return for each fragment a value that changes when it does."""
        if self.own_versions is not None:
            return self.own_versions(view, request)
        if any(request.query.get(name) for name in self.searches):
            return dict.fromkeys(self.fragments)
        written = request.service.store.written
        return {
            name: (written, view.now_ms // (fragment.ages * 1000))
            for name, fragment in self.fragments.items()
        }


def list_page(folder: str, title: str, load: Callable[[View, PageRequest], Data], *, pace: float) -> Page:
    """Return a page of a namespace that only has a list, which ``load`` loads."""

    def load_parts(view: View, request: PageRequest, parts: Collection[str]) -> dict[str, Data]:
        return {"page": {"title": title}, **({"list": load(view, request)} if "list" in parts else {})}

    fragments = {"list": Fragment(pace=pace)}
    return Page(path=f"/ns/{{namespace}}/{folder}", folder=folder, fragments=fragments, load=load_parts)


def link(namespace: str, *parts: str, **query: object) -> str:
    """Return the path of a page, with a query of the values that are neither None nor empty."""
    path = "/" + "/".join(quote(part, safe="") for part in ("ns", namespace, *parts))
    filled = {name: value for name, value in query.items() if value not in (None, "")}
    return path + (f"?{urlencode(filled)}" if filled else "")


def navigation_at(view: View, path: str, caller: Caller) -> Data:
    """Return the variables of the layout of a page without data: the namespace of ``path``, or the first."""
    _, first, *rest = path.split("/")
    names = all_namespaces(view, caller)
    is_known = first == "ns" and rest and (rest[0] in names if names else rest[0])
    namespace = rest[0] if is_known else first_namespace(view, caller) or "default"
    return {
        "namespace": namespace,
        "namespaces": names,
        "link": partial(link, namespace),
        "flashes": (),
        "folder": "",
        "live": "",
    }


@cache
def _content(name: str) -> tuple[bytes, str]:
    content = (HERE / "static" / name).read_bytes()
    return content, sha256(content).hexdigest()[:12]


def asset(name: str) -> str:
    return f"/static/{_content(name)[1]}/{name}"


def style(name: str = "style.css") -> str:
    """Return the text of a style sheet, for a page that must not refer to files."""
    return _content(name)[0].decode()


async def serve_asset(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in TYPES:
        raise NotFound(f"there is no file {name!r}")
    content, version = _content(name)
    kept = "public, max-age=31536000, immutable" if request.path_params["version"] == version else "no-cache"
    return Response(content, headers={"content-type": TYPES[name], "cache-control": kept})


def mark(text: str, part: str) -> Markup:
    """Return a text with the first occurrence of a part highlighted."""
    hit = re.search(re.escape(part), text, re.IGNORECASE)
    start, end = (0, 0) if hit is None else hit.span()
    marked = Markup("{}<mark>{}</mark>{}") if hit else Markup("{}{}{}")
    return marked.format(text[:start], text[start:end], text[end:])


def _environment() -> Environment:
    # Always escaped: no text of users becomes markup. A misspelt name is an error, not a blank.
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    names = "ago line_of moment quantile run_counts took short shorten value"
    for name in names.split():
        environment.filters[name] = getattr(format, name)
    # The database counts milliseconds, and so does a page.
    environment.filters["coarse"] = lambda ms: format_coarse(ms / 1000)
    environment.filters["duration"] = lambda ms: format_duration(None if ms is None else ms / 1000)
    environment.filters["seconds"] = format_duration
    environment.filters["local_time"] = local_time
    environment.filters["unix_ms"] = moment_ms
    environment.filters["number"] = "{:,}".format
    environment.filters["percent"] = percent
    environment.filters["bar"] = bar
    environment.filters["mark"] = mark
    environment.filters["reason_sentence"] = lambda reason: Markup(sentence_of(reason))  # a constant
    environment.globals.update(
        asset=asset,
        page_link=link,
        shown_status=format.SHOWN_STATUS,
        status_class=format.status_class,
    )
    return environment


templates = _environment()


def render(template: str, **variables: Any) -> Markup:
    return Markup(templates.get_template(template).render(variables))


def render_whole(request: Request, template: str, **variables: Any) -> Markup:
    """Return a whole page, in the theme of the browser."""
    theme = read_cookie(request, THEME_COOKIE)
    return render(
        template,
        theme=theme if theme in THEMES else "auto",
        themes=THEMES,
        # There is no page to return to at the address of a form.
        here=path_and_query(request) if request.method == "GET" else "/",
        **variables,
    )


def render_fragments(page: Page, data: Mapping[str, Data], common: Data) -> dict[str, Markup]:
    """Return each fragment that ``data`` has, in the element that the script replaces."""
    wrapper = Markup('<div data-fragment="{}">{}</div>')
    return {
        name: wrapper.format(name, render(f"{page.folder}/{name}.html", **common, **data[name]))
        for name in page.fragments
        if name in data
    }
