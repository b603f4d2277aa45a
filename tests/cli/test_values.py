"""Values on the command line: in arguments, in files, on standard input; and JSON with its lines."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from exotrio.cli import options


@click.command()
@options.run_values
@options.secrets
def show(inputs: dict[str, str], store: dict[str, str], secrets: dict[str, str]) -> None:
    click.echo(json.dumps([inputs, store, secrets]))


def values(*arguments: str, stdin: bytes = b"") -> list[dict[str, str]]:
    done = CliRunner().invoke(show, arguments, input=stdin)
    assert done.exit_code == 0, done.output
    read: list[dict[str, str]] = json.loads(done.output)
    return read


def refused(*arguments: str, stdin: bytes = b"") -> str:
    done = CliRunner().invoke(show, arguments, input=stdin)
    assert done.exit_code == 2, done.output
    return done.output


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "value"


def test_a_value_is_literal_text() -> None:
    assert values("-i", "a=b=c", "-i", "b=", "-i", "c= x ", "-i", "d=ü@")[0] == {
        "a": "b=c",
        "b": "",
        "c": " x ",
        "d": "ü@",
    }


@pytest.mark.parametrize(
    ("content", "value"),
    [(b"x", "x"), (b"x\n", "x"), (b"x\r\n", "x"), (b"x\n\n", "x\n"), (b"\xef\xbb\xbfx", "x"), (b"", "")],
)
def test_a_value_from_a_file_loses_one_line_break_at_its_end(file: Path, content: bytes, value: str) -> None:
    file.write_bytes(content)
    assert values("-i", f"a=@{file}")[0] == {"a": value}
    assert values("-i", "a=@-", stdin=content)[0] == {"a": value}


def test_a_value_that_begins_with_an_at_sign_is_written_with_two() -> None:
    assert values("-i", "a=@@ada", "-i", "b=@@", "-i", "c=@@@x")[0] == {"a": "@ada", "b": "@", "c": "@@x"}


def test_a_json_file_gives_values_exactly(file: Path) -> None:
    file.write_text('{"a": "@x\\n", "b": ""}', "utf-8")
    assert values("--inputs-file", str(file))[0] == {"a": "@x\n", "b": ""}
    assert values("--inputs-file", "-", stdin=b'{"a": "x"}')[0] == {"a": "x"}


def test_secrets_come_from_the_environment_files_and_standard_input(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("from a file\n", "utf-8")
    monkeypatch.setenv("TOKEN", "from the environment")
    read = values("--secret", "TOKEN", "--secret", f"b=@{file}", "--secret", "c=@-", stdin=b"from a pipe\n")
    assert read[2] == {"TOKEN": "from the environment", "b": "from a file", "c": "from a pipe"}


def test_a_secret_in_the_arguments_is_refused_and_not_repeated() -> None:
    for form in ("token=hunter22", "token=@@hunter22", "token="):
        message = refused("--secret", form)
        assert "other users can read it" in message
        assert "hunter22" not in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-i", "a"], "'a' is not of the form NAME=VALUE"),
        (["-i", "=a"], "'=a' is not of the form NAME=VALUE"),
        (["-i", "a=1", "-i", "a=2"], "'a' is given twice"),
        (["-i", "a=@-", "-i", "b=@-"], "standard input is read twice"),
        (["-i", "a=@-", "--inputs-file", "-"], "standard input is read twice"),
        (["-i", "a=@/no/such/file"], "/no/such/file cannot be read: No such file or directory"),
        (["-i", "a=@."], ". cannot be read: Is a directory"),
        (["-i", "a=@"], "cannot be read"),
        (["--inputs-file", "/no/such/file"], "/no/such/file cannot be read"),
        (["--secret", "NO_SUCH_VARIABLE"], "no environment variable 'NO_SUCH_VARIABLE'"),
        (["--secret", ""], "a secret needs a name"),
        (["--secret", "a=@/no/such/file"], "/no/such/file cannot be read"),
    ],
)
def test_a_value_that_cannot_be_read_is_an_error(arguments: list[str], message: str) -> None:
    assert message in refused(*arguments, stdin=b"{}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{\n"a": hunter22}', "is not JSON, line 2"),
        (b'["hunter22"]', "is not a JSON object"),
        (b'{"a": {"b": "hunter22"}}', "the value of 'a' is not text"),
        (b'{"a": 1}', "the value of 'a' is not text; write it in quotes"),
        (b"[" * 100_000, "is not JSON"),
        (b"\xff", "is not UTF-8 text"),
    ],
)
def test_an_invalid_file_of_values_is_refused_without_its_content(
    file: Path, content: bytes, message: str
) -> None:
    file.write_bytes(content)
    output = refused("--inputs-file", str(file))
    assert message in output
    assert "hunter22" not in output


def test_a_value_larger_than_any_request_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exotrio.cli.values.MAX_BYTES", 10)
    file.write_text("x" * 11, "utf-8")
    assert "has more than 10 bytes" in refused("-i", f"a=@{file}")
