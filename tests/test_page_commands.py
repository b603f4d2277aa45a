"""Every command on every page: it is run as printed by a test, or parsed here."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import pytest

import tests.bench.__main__
import tests.chaos.__main__
import tests.mutations.__main__
from exotrio._version import VERSION
from exotrio.cli import cli, exit_codes
from tests.bench.arena.cells import CELLS
from tests.chaos.__main__ import FAULTS
from tests.support.commands import Cli
from tests.support.pages import (
    BLOCKS,
    CHANGES,
    GUIDE,
    PAGES,
    PRODUCTION,
    README,
    block,
    commands,
    in_shell,
    save,
    text,
    without_code,
)
from tests.support.processes import EXAMPLES, ROOT, Process

NOT_RUN = {
    "it installs from a package index": [
        block(README, "run examples/audit.py"),
        block(README, "-m pytest"),
        block(GUIDE, "pytest-trio"),
    ],
    "it needs Docker": [
        block(PRODUCTION, "docker push"),
        block(PRODUCTION, "deploy/compose.yaml up"),
        block(PRODUCTION, "deploy/compose.postgres.yaml up --build "),
        block(PRODUCTION, "for n in 1 2 3"),
    ],
    "it needs a Kubernetes cluster": [
        block(PRODUCTION, "kubernetes/server.yaml"),
        block(PRODUCTION, "kubernetes/server-postgres.yaml"),
    ],
}
"""Blocks that are only parsed, by the reason. Commands in running text, which have placeholders, are, too."""


def used_blocks() -> Iterator[object]:
    """Yield the blocks that tests name, each as the code ``block(PAGE, "a part of it")``."""
    for file in (ROOT / "tests").rglob("test_*.py"):
        source = file.read_text("utf-8")
        if "tests.support.pages" in source:
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "block":
                    yield eval(ast.unparse(node), vars(sys.modules["tests.support.pages"]))


def test_each_block_of_each_page_is_run_or_compared_by_a_test_or_named_above() -> None:
    used = list(used_blocks())
    assert not [each for each in BLOCKS if each not in used]


# -- parsing


def parse(words: Sequence[str], *, is_whole: bool = True) -> None:
    """Check that a command exists and takes these arguments; only whole ones have all that are required."""
    command: click.Command = cli
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(click.Context(command), rest[0])
        assert found is not None, f"{shlex.join(words)}: there is no {rest[0]}"
        command = found
        del rest[0]
    assert rest or not isinstance(command, click.Group), f"{shlex.join(words)} lacks a command"
    try:
        given, left, _ = command.make_parser(click.Context(command)).parse_args(rest)
    except click.UsageError as error:
        if isinstance(error, click.BadOptionUsage) and not is_whole and error.option_name == words[-1]:
            return  # ``server --keep`` names an option
        raise AssertionError(f"{shlex.join(words)}: {error.message}") from None
    assert not left, f"{shlex.join(words)}: {left}"
    for parameter in command.params:
        value = given.get(parameter.name or "")
        if isinstance(parameter.type, click.Choice) and isinstance(value, str) and not value.isupper():
            parameter.type.convert(value, parameter, None)
        assert value is not None or not parameter.required or not is_whole, f"{words} lacks {parameter.name}"


def spans(page: str) -> Iterator[str]:
    for span in re.findall(r"`([^`]+)`", without_code(page)):
        yield " ".join(span.replace("\\|", "|").split())


def tree(command: click.Command = cli, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield all commands and groups, each with its words."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            member = command.get_command(context, name)
            assert member is not None
            yield from tree(member, *path, name)


def test_each_command_in_a_block_or_in_a_file_of_examples_is_accepted() -> None:
    printed = [words for each in BLOCKS if each.language == "sh" for words in commands(each.code)]
    assert len(printed) > 30
    for words in printed:
        parse(words)
    files = [path for path in EXAMPLES.rglob("*") if path.suffix in {".py", ".yaml", ".Dockerfile", ".sh"}]
    in_files = [words for path in files for words in commands(path.read_text("utf-8"))]
    assert len(in_files) > 10
    for words in in_files:
        parse(words)


def test_each_command_in_running_text_is_accepted() -> None:
    paths = [path for path, _ in tree() if path]
    names, members = {path[0] for path in paths}, {path[1] for path in paths if path[1:]}
    similar = {form for name in names for form in (f"{name}s", name.removesuffix("s"))}
    count = 0
    for page in PAGES:
        for span in spans(page):
            shown = re.sub(r"^(?:\.venv/bin/)?(?:python -m )?exotrio (?=\w)", "", span)
            words = shown.replace("[", "").replace("]", "").split()
            if (len(words) < 2 and shown == span) or words[0] == "COMMAND" or ": " in span:
                continue  # a name, a placeholder, or a message
            is_command = words[0] in names and re.match(r"[a-z-]+$|-|[A-Z]+\b", words[1] if words[1:] else "")
            # ``graphs rm`` is meant as a command.
            if shown != span or is_command or (words[0] in similar and words[1] in members):
                parse(shlex.split(" ".join(words)), is_whole=False)
                count += 1
    assert count > 120


def test_each_option_that_is_named_alone_exists() -> None:
    known = {option for _, command in tree() for each in command.params for option in each.opts} | {"--help"}
    for tool in ("bench", "chaos"):
        for path in (ROOT / "tests" / tool).rglob("*.py"):
            known.update(re.findall(r'"(--[\w-]+)"', path.read_text("utf-8")))
    known.add("--shutdown-graceful-timeout")  # of Procrastinate
    for page in PAGES:
        named = {span.partition(" ")[0].partition("=")[0] for span in spans(page) if span.startswith("--")}
        assert named <= known, f"{page}: {named - known}"


CAMPAIGN = {option for option, *_ in FAULTS.values()} | {"--states", "--seed", "--managers", "--v0-only"}
TOOLS = {
    "tests.bench": tests.bench.__main__.main,
    "tests.chaos": tests.chaos.__main__.main,
    "tests.mutations": tests.mutations.__main__.main,
}


class Parsed(Exception):
    """The arguments were accepted."""


def test_each_command_for_developers_is_accepted(
    monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    parse_args = argparse.ArgumentParser.parse_args

    def only_parse(parser: argparse.ArgumentParser, *arguments: Sequence[str]) -> None:
        options = parse_args(parser, *arguments)
        named = {*getattr(options, "names", []), *getattr(options, "cells", [])}
        if unknown := named - tests.bench.__main__.CASES.keys() - CELLS.keys():
            parser.error(f"unknown: {unknown}")
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
    count = 0
    for page, span in [(each, span) for each in PAGES for span in spans(each)]:
        command = re.sub(r"^(?:\w+=\S+ )*(?:(?:\.venv/bin/)?python -m )?", "", span)
        command = re.sub(r" (?:\[[A-Z][^]]*\]|\.\.\.)", "", command)  # [WORD ...], or what is left out
        command = re.sub(r"(\w+)(?:\|\w+)+", r"\1", command.replace("[", "").replace("]", ""))
        command = re.sub(r" (?:H|S)\b", " 1", command)  # of hours, of a scale
        if command.split()[0] in CAMPAIGN and " " in command:
            command = f"tests.chaos {command}"
        tool, *words = shlex.split(command) if command.startswith(("tests.", "pytest ")) else ("", "")
        if tool == "pytest":
            check_pytest(words, pytestconfig, page)
        elif tool in TOOLS:
            monkeypatch.setattr(sys, "argv", [tool, *words])
            with pytest.raises(Parsed):
                TOOLS[tool]()
        count += tool == "pytest" or tool in TOOLS
    assert count > 40


def check_pytest(words: Sequence[str], config: pytest.Config, page: str) -> None:
    for word in words:
        if word.startswith("-"):
            config.getoption(word.partition("=")[0])  # a ValueError if there is none
        elif "/" in word:
            is_made = f"Put it into `{word}`" in text(page)
            assert (ROOT / word).exists() or (is_made and (ROOT / word).parent.is_dir()), f"{page}: {word}"


def test_the_files_and_extras_that_commands_name_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    deployed = [path for path in (EXAMPLES / "deploy").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    for path in [*(ROOT / page for page in PAGES), *deployed]:
        shown = path.read_text("utf-8")
        assert "pip install exotrio" not in shown.replace("'", ""), "no package is published"
        for named in re.findall(r"\.\[([\w,]+)\]'", shown):
            assert set(named.split(",")) <= extras.keys(), named
        for named in re.findall(r"(?:-f|python) (examples/[\w./-]+)", shown):
            assert (ROOT / named).is_file(), named


def test_what_troubleshooting_quotes_is_printed_by_exotrio() -> None:
    section = text(GUIDE).partition("## Troubleshooting")[2].partition("## Reference")[0]
    quoted = [
        quote
        for row in section.splitlines()
        if row.startswith("| `")
        for quote in re.findall(r"`([^`]+)`", row.split("|")[1])
    ]
    assert len(quoted) > 25
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "exotrio").rglob("*.py"))
    printed = re.sub(r'"\s+(?:\+ \()?f?"', "", sources)  # of a text in several parts
    assert not [quote for quote in quoted if quote not in printed]


def test_each_exit_code_is_on_the_page_about_production() -> None:
    rows = re.findall(r"^\| ([\d, ]+) \|", text(PRODUCTION).partition("| exit code |")[2], re.M)
    shown = {int(code) for row in rows for code in row.split(",")}
    assert shown == {
        value for name, value in vars(exit_codes).items() if name.isupper() and isinstance(value, int)
    }


def test_the_newest_version_among_the_changes_is_this_one() -> None:
    assert re.findall(r"^## ([\d.]+)", text(CHANGES), re.M)[0] == VERSION


# -- running


def test_a_limit_is_set_as_the_guide_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = Cli(tmp_path, monkeypatch, capsys)
    save(block(GUIDE, "class Split("), tmp_path)
    cli("run", "words.py", code=0)
    (words,) = commands(block(GUIDE, "limits set stripe").code)
    assert cli(*words, code=0).out.startswith("limit stripe: 3 at once")


def test_dev_opens_the_page_of_the_graph(tmp_path: Path) -> None:
    save(block(GUIDE, "class Split("), tmp_path)
    (tmp_path / "browser.py").write_text("import sys; print('opened', sys.argv[1])", "utf-8")
    tutorial = block(GUIDE, "\n.venv/bin/python -m exotrio dev")
    assert commands(tutorial.code) == commands(block(GUIDE, "\npython -m exotrio dev").code)
    env = {**in_shell(tmp_path), "BROWSER": f"{sys.executable} {tmp_path / 'browser.py'} %s"}
    with Process(["bash", "-ec", f"exec {tutorial.code}"], cwd=tmp_path, env=env) as dev:
        dev.line(r"^opened file://")
        dev.stop(code=0)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_old_code_is_taken_from_git(tmp_path: Path) -> None:
    save(block(GUIDE, "class Split("), tmp_path)
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "words.py"], [*author, "commit", "-qm", "words"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    first = block(GUIDE, "rehearse old.py").code.splitlines()[0]
    subprocess.run(["bash", "-ec", first], cwd=tmp_path, check=True)
    assert (tmp_path / "old.py").read_text("utf-8") == (tmp_path / "words.py").read_text("utf-8")
