"""Plain English: words that the project does not use, in its code, its tests and its pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BANNED = {
    "nobody": "no runtime, no client, ...",
    "somebody": "a user, another transaction, ...",
    "whoever": "the caller, the process that ...",
    "strangers?": "a client without a key, another user",
    "for ever": "without a limit",
    "beside": "next to, besides",
    "of (?:its|their|our|his) own": "its own, separate",
    "anew": "again",
    "heed": "obey, handle",
    "lodger": "what it is",
    "patience": "STARTUP_TIMEOUT, MAX_REPLAY_FAILURES, ...: what the number limits",
}
"""Each with what to write instead."""
PATTERN = re.compile(rf"\b(?:{'|'.join(BANNED)})\b", re.IGNORECASE)
ALLOWED = re.compile(r"``nobody``|USER = \"nobody\"")
"""A user of the operating system."""
FILES = [
    path
    for place in ("exotrio", "tests", "examples", "README.md")
    for path in ([ROOT / place] if (ROOT / place).is_file() else sorted((ROOT / place).rglob("*")))
    if path.suffix in {".py", ".md", ".html", ".js", ".css", ".txt"} and path != Path(__file__)
]


@pytest.mark.parametrize("folder", sorted({path.relative_to(ROOT).parts[0] for path in FILES}))
def test_no_banned_word_is_used(folder: str) -> None:
    uses = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]!r}"
        for path in FILES
        if path.relative_to(ROOT).parts[0] == folder
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if not ALLOWED.search(line) and (match := PATTERN.search(line.replace("_", " ")))
    ]
    assert not uses, "\n".join([*uses, *(f"not {word!r} but: {plain}" for word, plain in BANNED.items())])
