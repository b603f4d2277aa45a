"""Keeps secrets out of texts: errors, progress, logs, exports and records.

A value is masked in the forms that usually occur in texts: as it is and line by line, escaped for Python or
JSON (twice, since texts are quoted within texts), for HTML, a shell or SQL, percent-encoded, in hex, and in
Base64 at each of its three alignments. Line breaks within a form do not matter, so it may be wrapped at any
width. Not covered, since a list of such forms has no end: other encodings (reversed, compressed, a hex dump
with offsets), and combinations of two different ones, such as HTML in JSON.

A part of a text (the beginning that a listing shows, the end that a query read) may begin or end within a
secret, where no form of it matches. A caller that has only a part says so, and the characters at its edges
that could belong to such a secret are dropped.
"""

from __future__ import annotations

import html
import json
import re
import threading
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from urllib.parse import quote, quote_plus

MIN_SECRET = 6
"""Characters. Shorter values occur in texts by chance: masking them would garble these and reveal the
values."""

MASK = "***"

MAX_ELLIPSES = 1_000
"""Maximum number of ellipses in one text at which shortened secrets are searched for."""

_PIECE = 256
"""Characters. Longer forms are also masked piece by piece, so that an edge costs two pieces at most."""
MAX_CACHED = 500_000
"""Characters of the secrets whose redactors are cached: their forms take about a hundred times as many."""
_MANY = 500
"""Forms. With more, it is faster to look up each part of the text than to search it for each form."""
_BREAK = re.compile(r"((?:[\r\n]|\\{1,4}[rn\r\n])[\s|]*)")
"""The end of a line, also escaped or continued, with the indentation of the next one."""
_ELLIPSIS = re.compile(r"(\.{3,}|…)")
_HTML_QUOTES = (("&quot;", "&#x27;"), ("&quot;", "&#39;"), ("&#34;", "&#39;"), ("&quot;", "&apos;"))
_URL_SAFE = ("", "/", "!'()*", "!$&'()*+,;=:@/", "!#$&'()*+,/:;=?@")
"""Characters that quote, urlencode, encodeURIComponent, HTTP clients and encodeURI do not encode."""


class Redactor:
    """Masks secrets in texts. Values of less than six characters are left alone."""

    def __init__(self, secrets: Iterable[object] = ()) -> None:
        self._secrets = tuple(map(str, secrets))

    def redact(self, text: str, *, cut_before: bool = False, cut_after: bool = False) -> str:
        """Return ``text`` with every secret as ``***``.

        Args:
            text: A whole text, or a part of one.
            cut_before: The whole text began earlier: up to 511 characters at the beginning are dropped, since
                they may be the rest of a secret.
            cut_after: The whole text goes on: as many are dropped at the end.
        """
        if not self._forms:
            return text
        (text,) = self.redact_lines([text])
        edge = self._edge
        return text[edge if cut_before else 0 : max(0, len(text) - edge) if cut_after else None]

    def redact_lines(self, texts: Sequence[str]) -> list[str]:
        """Return texts that follow each other, as lines of a log do, with every secret as ``***``: also one
        that begins in one text and ends in another."""
        if not self._forms:
            return list(texts)
        return self._redact_wrapped([self._redact_whole(text) for text in texts])

    def _redact_whole(self, text: str) -> str:
        for form in _occurring(text, self._forms, self._by_begin):
            text = text.replace(form, MASK)
        return self._redact_shortened(text) if "..." in text or "…" in text else text

    def _redact_wrapped(self, texts: Sequence[str]) -> list[str]:
        """Mask the secrets that go over the end of a line, which is kept."""
        # Parts of texts, and at odd places what separates them. The first line may be indented as well.
        split = [_BREAK.split(f"\n{text}") for text in texts]
        if sum(map(len, split)) <= 3:
            return list(texts)  # one line
        joined = "".join(part for parts in split for part in parts[::2])
        hidden = bytearray(len(joined))
        for form in _occurring(joined, self._unwrapped, self._unwrapped_by_begin):
            start = joined.find(form)
            while start >= 0:
                hidden[start : start + len(form)] = b"\1" * len(form)
                start = joined.find(form, start + len(form))
        if 1 not in hidden:
            return list(texts)
        start = 0
        for parts in split:
            for number in range(0, len(parts), 2):
                part = parts[number]
                flags, start = hidden[start : start + len(part)], start + len(part)
                if 1 in flags:
                    runs = groupby(zip(part, flags, strict=True), lambda pair: pair[1])
                    parts[number] = "".join(
                        MASK if flag else "".join(c for c, _ in run) for flag, run in runs
                    )
        return ["".join(parts)[1:] for parts in split]

    def _redact_shortened(self, text: str) -> str:
        """Mask the parts of secrets next to an ellipsis: pydantic shows 50 characters of a value."""
        if self._ends.isdisjoint(_beginnings(text)):
            return text
        parts = _ELLIPSIS.split(text, MAX_ELLIPSES)
        for number, part in enumerate(parts):
            if number % 2 or len(part) < MIN_SECRET:
                continue  # an ellipsis, or too little between two
            begin = 0 if number == 0 else _overlap(part[:_PIECE][::-1], self._reversed)
            end = 0 if number == len(parts) - 1 else _overlap(part[-_PIECE:], self._by_begin)
            if begin or end:
                kept = part[begin : max(begin, len(part) - end)]
                parts[number] = f"{MASK if begin else ''}{kept}{MASK if end else ''}"
        return "".join(parts)

    @cached_property
    def _forms(self) -> list[str]:
        """What is masked, the longest first: one secret may be part of another."""
        # Computed when first needed: often no text has to be searched.
        forms = {form for secret in self._secrets for form in _forms_of(secret)}
        forms |= {piece for form in forms for piece in _pieces_of(form)}
        return sorted(forms, key=len, reverse=True)

    @cached_property
    def _unwrapped(self) -> list[str]:
        """The forms without their line breaks."""
        forms = {form for form in (_BREAK.sub("", form) for form in self._forms) if len(form) >= MIN_SECRET}
        forms |= {piece for form in forms for piece in _pieces_of(form)}
        return sorted(forms, key=len, reverse=True)

    @cached_property
    def _ends(self) -> set[str]:
        return {part for form in self._forms for part in (form[:MIN_SECRET], form[-MIN_SECRET:])}

    @cached_property
    def _by_begin(self) -> dict[str, list[str]]:
        return _grouped(self._forms)

    @cached_property
    def _unwrapped_by_begin(self) -> dict[str, list[str]]:
        return _grouped(self._unwrapped)

    @cached_property
    def _reversed(self) -> dict[str, list[str]]:
        return _grouped(form[::-1] for form in self._forms)

    @cached_property
    def _edge(self) -> int:
        return max(len(form) for form in self._forms if len(form) < 2 * _PIECE) - 1


NO_SECRETS = Redactor()


_recent: dict[tuple[str, ...], Redactor] = {}
"""Redactors by their secrets, the one used last at the end: a large secret has thousands of forms."""
_lock = threading.Lock()


def redactor_of(secrets: Iterable[object]) -> Redactor:
    """Return the redactor of these secrets: the same one for the same values, as long as it is cached."""
    values = tuple(map(str, secrets))
    with _lock:
        redactor = _recent.pop(values, None) or Redactor(values)
        _recent[values] = redactor
        room = MAX_CACHED - sum(len(value) for cached in _recent for value in cached)
        while room < 0:
            oldest = next(iter(_recent))
            room += sum(map(len, oldest))
            del _recent[oldest]
    return redactor


def _forms_of(secret: str) -> Iterator[str]:
    # A traceback indents the lines of a PEM key one by one.
    for part in {secret.strip(), *map(str.strip, secret.splitlines())}:
        if len(part) < MIN_SECRET:
            continue
        yield part
        if part.isascii() and part.isalnum():
            continue  # no encoding below changes it
        for form in _escaped(part):
            yield form
            yield from _escaped(form)
        yield repr(part.encode("utf-8", "replace"))[2:-1]
        yield from _quoted(part)
        yield from _percent_encoded(part)
    if len(secret.strip()) >= MIN_SECRET:
        data = secret.strip().encode("utf-8", "replace")
        yield data.hex()
        yield data.hex().upper()
        for form in _base64(data):
            yield form
            yield form.translate({ord("+"): "-", ord("/"): "_"})
            yield from _percent_encoded(form)


def _escaped(text: str) -> Iterator[str]:
    """Yield a text as it is written in a string literal of Python, in both kinds of quotes, or of JSON."""
    within_single = repr(f'"{text}')[2:-1]
    yield within_single
    yield within_single.replace("\\'", "'")
    yield json.dumps(text)[1:-1]
    yield json.dumps(text, ensure_ascii=False)[1:-1]


def _quoted(text: str) -> Iterator[str]:
    """Yield a text as it is written in HTML and XML, in SQL and in a shell, with and without quotes."""
    in_html = html.escape(text, quote=False)
    yield in_html
    for double, single in _HTML_QUOTES:
        yield in_html.replace('"', double).replace("'", single)
    for quote_mark in "'\"":
        yield text.replace(quote_mark, 2 * quote_mark)
    for end_and_begin in ("'\"'\"'", "'\\''"):  # as shlex.quote and most people write it
        yield text.replace("'", end_and_begin)
    for special in ('(["$`\\\\])', '(["$`\\\\!])', r"([^\w@%+=:,./-])"):
        yield re.sub(special, r"\\\1", text)


def _percent_encoded(text: str) -> Iterator[str]:
    forms = [quote(text, safe, errors="replace") for safe in _URL_SAFE]
    for form in (quote_plus(text, errors="replace"), *forms):
        yield form
        head, *rest = form.split("%")
        yield "%".join([head, *(code[:2].lower() + code[2:] for code in rest)])


def _base64(data: bytes) -> Iterator[str]:
    """Yield the characters that encode ``data`` alone, independent of the data before and after it."""
    for before in range(3):
        text = b64encode(bytes(before) + data).decode()
        # The first and the last characters also encode bits of the data before and after it.
        yield text[(0, 2, 3)[before] : (before + len(data)) * 8 // 6]


def _pieces_of(form: str) -> Iterator[str]:
    count = len(form) // _PIECE
    for number in range(count if count > 1 else 0):
        is_last = number == count - 1
        piece = form[number * _PIECE : None if is_last else (number + 1) * _PIECE]
        if len(piece.strip()) >= MIN_SECRET:
            yield piece


def _beginnings(text: str) -> Iterator[str]:
    # Not a set: it would take a hundred times the memory of the text.
    return (text[start : start + MIN_SECRET] for start in range(len(text) - MIN_SECRET + 1))


def _occurring(text: str, forms: list[str], by_begin: Mapping[str, list[str]]) -> list[str]:
    """Return those of ``forms`` that may occur in a text, in their order: all, or a few of many."""
    if len(forms) < _MANY:
        return forms
    begins = {begin for begin in _beginnings(text) if begin in by_begin}
    return sorted((form for begin in begins for form in by_begin[begin]), key=len, reverse=True)


def _grouped(forms: Iterable[str]) -> dict[str, list[str]]:
    """Return the forms by their first six characters."""
    groups: dict[str, list[str]] = {}
    for form in forms:
        groups.setdefault(form[:MIN_SECRET], []).append(form)
    return groups


def _overlap(text: str, forms: Mapping[str, list[str]]) -> int:
    """Return how many characters at the end of ``text`` begin one of ``forms``; 0 if too few to be sure."""
    for start in range(len(text) - MIN_SECRET + 1):
        for form in forms.get(text[start : start + MIN_SECRET], ()):
            if form.startswith(text[start:]):
                return len(text) - start
    return 0
