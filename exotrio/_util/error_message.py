"""The line that says what happened, found in the reported text of an error. Pure."""

from __future__ import annotations

import re

from exotrio._util.words import shortened

MAX_ERROR_BYTES = 64 * 1024
"""Maximum length of a reported error in bytes."""
MAX_LINE = 500
"""Characters of the line that names an error."""
MAX_DEPTH = 10
"""Depth of nested groups; groups within these are not read as groups."""

_TRACEBACK = "Traceback (most recent call last):"
_CHAINED = {
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
}
_MARGINS = ("  |", "  + Exception Group")
_RULE = re.compile(r"  \+-\+-{16} |    \+-{16}")
"""The line between the parts of a group."""
_VALIDATION = re.compile(r"\b\d+ validation errors? for ")


def message_line(text: str | None, limit: int = MAX_LINE) -> str:
    """Return the line of an error's text that says what happened; of a group, with the messages in it.

    The text is a traceback, or a message alone. Further lines of a message, notes and frames are left out,
    and so is what exceeds ``limit`` characters.
    """
    lines = [line.rstrip() for line in (text or "").splitlines()]
    head, messages = _read(lines)
    line = f"{head}: {'; '.join(messages)}" if len(messages) > 1 else (messages or [head])[0]
    return shortened(line, limit)


def lines_beyond_message(text: str) -> list[str]:
    """Return the lines of an error's text except its message, for display below ``message_line``."""
    lines, message = text.strip().splitlines(), message_line(text)
    for count in (1, 2, 3):
        if " ".join(map(str.strip, lines[-count:])) == message:
            return lines[:-count]
        if " ".join(map(str.strip, lines[:count])) == message:
            return lines[count:]
    return lines


def _read(lines: list[str], depth: int = 0) -> tuple[str, list[str]]:
    """Return the message in these lines of an error's text, and the messages of its parts if it has any."""
    start = max((index + 1 for index, line in enumerate(lines) if line in _CHAINED), default=0)
    lines = [line for line in lines[start:] if line.strip()]
    if not lines or not lines[0].startswith(_MARGINS) or depth > MAX_DEPTH:
        return _read_plain(lines), []
    # Lines with a margin belong to the group itself, the others to its parts.
    head = _read([line[4:] for line in lines if line.startswith(_MARGINS)], depth + 1)[0]
    messages: list[str] = []
    part: list[str] = []
    for line in [*(line for line in lines if not line.startswith(_MARGINS)), ""]:
        if line and not _RULE.match(line):
            part.append(line[2:])
            continue
        if part:
            inner, parts = _read(part, depth + 1)
            messages += parts or [inner]
        part = []
    return head, messages


def _read_plain(lines: list[str]) -> str:
    if not lines:
        return ""
    start = 0
    if lines[0].endswith(_TRACEBACK):
        frame = 0
    else:  # the end of a traceback, perhaps
        frame = max((at for at, line in enumerate(lines) if line.startswith('  File "')), default=-1)
    if frame >= 0:
        # The frames are indented; so is what shows the line of a SyntaxError.
        below = range(frame + 1, len(lines))
        start = next((at for at in below if not lines[at].startswith(" ")), len(lines) - 1)
    # With the next lines, if the message only announces them.
    line = lines[start].strip()
    more = 1 if line.endswith(":") else 2 if _VALIDATION.search(line) else 0
    following = [other.strip() for other in lines[start + 1 : start + 1 + more]]
    return " ".join([line, *following])
