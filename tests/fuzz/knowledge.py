"""What there is to know of a database and of the application over it, learnt by watching requests.

The valid shapes that the fuzz starts from are recorded as requests pass, so that no test has to list fields.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from unittest import mock
from urllib.parse import parse_qsl, unquote, urlsplit

import httpx
from pydantic import BaseModel

from exotrio.manager.api import bodies
from exotrio.manager.api import json as json_api
from tests.fuzz.routes import TARGETS, Target, sign_in, target_of
from tests.support.helpers import SettableClock

SECRETS = {"token": "fuzzed-secret-plain-5d0a", "other": "fuzzed-secret-plain-77be"}
MAX_OF_ONE_PAGE = 6
"""Pages of one kind that are read, of one run and another, say."""

Fields = list[tuple[str, str]]


@dataclass(eq=False)
class World:
    """What the fuzz starts from.

    Attributes:
        database: The database, as a file would hold it.
        clock: Of all services over it; it never moves, so that nothing changes but by a request.
        answered: Targets that took a request.
        bodies: JSON bodies that a target took.
        forms: Forms that the pages have for a target.
        paths: Values of the parameters in its path, which fit together.
        queries: Parameters that requests and links put after the ``?``, by target.
        models: What a target parses its body as, or its query.
        known: Texts that mean something in this database, by the name of field or parameter.
    """

    database: bytes = b""
    clock: SettableClock = field(default_factory=SettableClock)
    bodies: dict[Target, list[Any]] = field(default_factory=lambda: defaultdict(list))
    forms: dict[Target, list[Fields]] = field(default_factory=lambda: defaultdict(list))
    queries: dict[Target, list[Fields]] = field(default_factory=lambda: defaultdict(list))
    models: dict[Target, list[type[BaseModel]]] = field(default_factory=lambda: defaultdict(list))
    answered: set[Target] = field(default_factory=set)
    paths: dict[Target, list[dict[str, str]]] = field(default_factory=lambda: defaultdict(list))
    known: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def learn_path(self, target: Target, values: dict[str, str]) -> None:
        """Remember what stood in a path."""
        if values not in self.paths[target]:
            self.paths[target].append(values)
        for name, value in values.items():
            self.learn(name, value)

    def learn(self, name: str, value: object) -> None:
        """Remember a text by the name of its field. No secret: one that an answer shows is a failure."""
        if isinstance(value, str) and value not in (*self.known[name], *SECRETS.values(), ""):
            self.known[name].append(value)

    def learn_all(self, value: object, name: str = "") -> None:
        """Remember every text of a JSON value."""
        if isinstance(value, dict):
            for key, item in value.items():
                self.learn_all(item, key)
        elif isinstance(value, list):
            for item in value:
                self.learn_all(item, name)
        else:
            self.learn(name, value)


def note(made: World, response: httpx.Response) -> None:
    request = response.request
    target_and_values = target_of(request.method, unquote(request.url.path))
    if response.status_code >= 400 or target_and_values is None:
        return
    target, values = target_and_values
    made.answered.add(target)
    made.learn_path(target, values)
    if request.url.query:
        fields = parse_qsl(request.url.query.decode())
        made.queries[target].append(fields)
        for name, value in fields:
            made.learn(name, value)
    if request.headers.get("content-type") == "application/json" and (body := json.loads(request.content)):
        made.bodies[target].append(body)
        made.learn_all(body)
    if response.headers.get("content-type", "").startswith("application/json"):
        made.learn_all(response.json())


async def browse(client: httpx.AsyncClient, made: World) -> None:
    """Ask for whatever can be looked at, follow the links between pages, and note forms and models."""
    await client.get("/v0/namespace/shop/runs/1/20")
    await client.get("/exotrio/v1/namespace/shop/runs", params={"limit": 1, "status": "FAILED"})
    _read_page(made, await client.get("/sign-in"))
    await sign_in(client)
    waiting, seen, followed = ["/"], {"/"}, Counter[Target]()
    while waiting:
        for link in _read_page(made, await client.get(waiting.pop(0), follow_redirects=True)):
            target_and_values = target_of("GET", unquote(urlsplit(link).path))
            if target_and_values and link not in seen and followed[target_and_values[0]] < MAX_OF_ONE_PAGE:
                followed[target_and_values[0]] += 1
                seen.add(link)
                waiting.append(link)
    for target in TARGETS:
        values = {name: made.known[name][0] for name in target.parameters if made.known[name]}
        if not (target.path.startswith("/live/") or target.path == "/sign-out"):
            path = target.path.format_map(defaultdict(lambda: "0", values))
            await client.request(target.method, path, json=None if target.method == "GET" else {})


def _read_page(made: World, page: httpx.Response) -> list[str]:
    """Note the forms of a page and the parameters in its links; return the links."""
    if page.headers["content-type"] != "text/html; charset=utf-8":
        return []
    reader = _Page()
    reader.feed(page.text)
    for method, action, fields in reader.forms:
        path = unquote(urlsplit(action or str(page.url)).path)
        if target_and_values := target_of(method, path):
            kept = (made.forms if method == "POST" else made.queries)[target_and_values[0]]
            if fields not in kept:
                kept.append(fields)
            made.learn_path(*target_and_values)
            for name, value in fields:
                made.learn(name, value)
    for link in reader.links:
        parts = urlsplit(link)
        if target_and_values := target_of("GET", unquote(parts.path)):
            if parts.query:
                made.queries[target_and_values[0]].append(parse_qsl(parts.query))
            made.learn_path(*target_and_values)
    return reader.links


class _Page(HTMLParser):
    """The forms and links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[tuple[str, str, Fields]] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        if tag == "form":
            self.forms.append((values.get("method", "get").upper(), values.get("action", ""), []))
        elif tag in ("input", "select", "textarea", "button") and "name" in values and self.forms:
            self.forms[-1][2].append((values["name"], values.get("value", "")))
        elif tag in ("a", "link", "script") and (values.get("href") or values.get("src", "")).startswith("/"):
            self.links.append(values.get("href") or values["src"])


@contextmanager
def models(made: World) -> Iterator[None]:
    """Note as what the targets parse their bodies and queries, wherever they do."""
    parsers: tuple[Callable[..., Any], ...] = (bodies.read_model, json_api.read_query)

    def noting(read: Callable[..., Any]) -> Callable[..., Any]:
        def reading(request: Any, model: type[BaseModel], **options: Any) -> Any:
            if target_and_values := target_of(request.method, request.scope["path"]):
                models = made.models[target_and_values[0]]
                if model not in models:
                    models.append(model)
            return read(request, model, **options)

        return reading

    with ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name.startswith("exotrio.manager."):
                for function in parsers:
                    if vars(module).get(function.__name__) is function:
                        stack.enter_context(mock.patch.object(module, function.__name__, noting(function)))
        yield
