"""Texts of any origin made safe for a terminal, a log or a page: control characters are escaped."""

from __future__ import annotations

import re

# C0, C1 and DEL; what changes the direction of text; what some programs take for a line end.
# Tabs and line ends stay; one_line escapes them, too.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def harmless(text: str) -> str:
    """Return ``text`` with each control character that a terminal would obey as ``\\xNN`` or ``\\uNNNN``."""
    return _OBEYED.sub(_escape, text)


def one_line(text: str) -> str:
    """Return ``text`` as ``harmless`` does, with its line ends and tabs as ``\\n`` and ``\\t``."""
    return harmless(text.replace("\n", "\\n").replace("\t", "\\t"))


def harmless_json(text: str) -> str:
    """Return JSON that means the same, with what a terminal would obey as ``\\uNNNN``."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
