"""The pages of documentation: their sections, their blocks of code, and shells that run these as printed."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import ROOT, TEST_TIMEOUT, environment

README, GUIDE, PRODUCTION, PROOF, CHANGES = PAGES = (
    "README.md",
    "examples/README.md",
    "examples/deploy/README.md",
    "tests/README.md",
    "examples/CHANGES.md",
)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.S | re.M)
_HEADING = re.compile(r"^#+ (.+)$", re.M)


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        page: The page that it is on.
        section: The last heading before it.
        language: As the page names it; ``sh`` for commands, empty for what they print.
        before: The last line of text before it.
    """

    page: str
    section: str
    language: str
    code: str
    before: str

    @property
    def file(self) -> str:
        """Name of the file that the line before tells the reader to save it as; empty if it does not."""
        match = re.search(r"(?i:\bthis as|\bsave it as) `([\w.]+)`", self.before)
        return match[1] if match else ""


def text(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def without_code(page: str) -> str:
    """Return a page without its blocks of code."""
    return _FENCE.sub("", text(page))


def _blocks(page: str) -> Iterator[Block]:
    whole = text(page)
    section = ""
    end = 0
    for match in _FENCE.finditer(whole):
        between = whole[end : match.start()]
        section = [section, *_HEADING.findall(between)][-1]
        before = ["", *between.strip().splitlines()][-1]
        yield Block(page, section, match[1], match[2], before)
        end = match.end()


BLOCKS = tuple(block for page in PAGES for block in _blocks(page))


def block(page: str, fragment: str) -> Block:
    """Return the only block of a page that contains this; its first line begins with a newline here."""
    blocks = [each for each in BLOCKS if each.page == page and fragment in f"\n{each.code}"]
    assert len(blocks) == 1, f"{page}: {len(blocks)} blocks contain {fragment!r}"
    return blocks[0]


def commands(code: str) -> list[list[str]]:
    """Return the arguments of each exotrio command in a text, also of those within others."""
    joined = code.replace("\\\n", " ")
    return [shlex.split(found) for found in re.findall(r"(?:-m |bin/)exotrio ([^#|&;)>`\n]+)", joined)]


def save(block: Block, folder: Path) -> None:
    """Save a block as the page says."""
    assert block.file, f"the line before does not name a file: {block.before}"
    (folder / block.file).write_text(block.code, "utf-8")


def in_shell(folder: Path) -> dict[str, str]:
    """Return the environment of a shell; ``.venv`` and ``python`` in it are those of the tests."""
    home = folder / ".venv"
    if not home.exists():
        home.symlink_to(sys.prefix)
    kept = environment(folder)
    return {**kept, "PATH": f"{home}/bin:{kept['PATH']}"}


def shell(block: Block | str, folder: Path) -> tuple[int, str]:
    """Run commands as they are printed, and return the last exit code and all output."""
    done = subprocess.run(
        ["bash", "-ec", block if isinstance(block, str) else block.code],
        cwd=folder,
        env=in_shell(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TEST_TIMEOUT,
    )
    return done.returncode, done.stdout


def masked(text: str) -> list[str]:
    """Return the lines of what was printed, without ids and numbers, which differ each time."""
    text = re.sub(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", "RUN", text)
    text = re.sub(r"/\S*/(?=\w+\b)", "/", text)
    return [line.strip() for line in re.sub(r"\d[\d,.]*", "N", text).splitlines() if line.strip()]


def assert_prints(printed: str, expected: str) -> None:
    """Check that each line was printed, in its order; other lines may stand between them."""
    lines = iter(masked(printed))
    for line in masked(expected):
        assert line in lines, f"{line!r} is not printed, or in another order:\n{printed}"
