"""Secrets in texts: every form in which they get there, and every edge at which a text may be cut."""

from __future__ import annotations

import html
import json
import random
import shlex
import textwrap
import time
import tracemalloc
from base64 import b64encode, encodebytes, urlsafe_b64encode
from urllib.parse import quote, quote_plus, urlencode

import markupsafe
import pytest
from pydantic import BaseModel, ValidationError

from exotrio._util.redaction import MAX_CACHED, MAX_ELLIPSES, Redactor, redactor_of

HARD = 'it\'s "Pa55/wörd" + 100%\\of? x'
KEY = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w\n  short\nAQEFAASCBKcwggSjAgEAAo\n-----END KEY-----\n"
RANDOM = random.Random(5)
CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def drawn(length: int) -> str:
    return "".join(RANDOM.choices(CAPITALS, k=length))


@pytest.mark.parametrize(
    "form",
    [
        HARD,
        repr(HARD)[1:-1],
        repr(f"'{HARD}'")[3:-3],
        str(KeyError(HARD))[1:-1],
        json.dumps(HARD)[1:-1],
        json.dumps(HARD, ensure_ascii=False)[1:-1],
        json.dumps(json.dumps(HARD))[3:-3],
        repr(json.dumps(HARD))[2:-2],
        repr(HARD.encode())[2:-1],
        quote(HARD),
        quote(HARD, safe=""),
        quote(HARD, safe="").lower().replace("pa55", "Pa55"),
        quote_plus(HARD),
        quote(HARD, safe="!'()*"),
        quote(HARD, safe="!#$&'()*+,/:;=?@"),
        urlencode({"a": HARD})[2:],
        HARD.encode().hex(),
        HARD.encode().hex().upper(),
        html.escape(HARD),
        html.escape(HARD, quote=False),
        str(markupsafe.escape(HARD)),
        html.escape(HARD).replace("&#x27;", "&apos;"),
        shlex.quote(HARD)[1:-1],
        HARD.replace("'", "'\\''"),
        HARD.replace("\\", "\\\\").replace('"', '\\"'),
        "".join(letter if letter.isalnum() or letter in "+%/" else f"\\{letter}" for letter in HARD),
        HARD.replace("'", "''"),
        HARD.replace('"', '""'),
    ],
)
def test_every_way_to_write_a_secret_is_masked(form: str) -> None:
    assert Redactor([HARD]).redact(f"before {form} behind") == "before *** behind"


@pytest.mark.parametrize("before", ["", "u", "us", "user:", "any thing"])
@pytest.mark.parametrize("behind", ["", "x", "xy", "xyz"])
@pytest.mark.parametrize("encode", [b64encode, urlsafe_b64encode])
def test_base64_is_masked_whatever_stands_around_the_secret(before: str, behind: str, encode: object) -> None:
    text = encode(f"{before}{HARD}{behind}".encode()).decode()  # type: ignore[operator]
    shown = Redactor([HARD]).redact(f"Basic {text}.")
    assert "***" in shown
    # What is left stands for what is around it, and for less than a byte of the secret at either side.
    assert len(shown) <= len("Basic ***.") + len(b64encode(f"{before}{behind}".encode())) + 4
    in_url = Redactor([HARD]).redact(quote(text, safe=""))
    assert len(in_url) <= len("***") + 3 * (len(b64encode(f"{before}{behind}".encode())) + 4)


def test_lines_of_a_secret_are_masked_one_by_one() -> None:
    indented = "\n".join(f"  | {line}" for line in KEY.splitlines())
    shown = Redactor([KEY]).redact(f"{KEY!r}\n{json.dumps(KEY)}\n{indented}")
    assert not any(line in shown for line in KEY.split() if len(line) > 5)


@pytest.mark.parametrize("line", [line.strip() for line in KEY.splitlines() if len(line.strip()) > 5])
def test_a_single_line_of_a_secret_is_masked(line: str) -> None:
    assert Redactor([KEY]).redact(f"it begins with <{line}>") == "it begins with <***>"


@pytest.mark.parametrize("width", [8, 20, 76])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\n    ", "\\\n", "\\n", "\\\\n", "\n  | "])
def test_a_secret_that_is_wrapped_is_masked_in_each_line(width: int, line_end: str) -> None:
    secret = drawn(201)  # so that nothing is added to its Base64
    for form in (secret, secret.encode().hex(), encodebytes(secret.encode()).decode().replace("\n", "")):
        wrapped = line_end.join(textwrap.wrap(form, width))
        shown = Redactor([secret]).redact(f"It is{line_end}{wrapped}{line_end}so far")
        lines = -(-len(form) // width)
        assert shown == f"It is{line_end}{line_end.join(['***'] * lines)}{line_end}so far"


def test_a_secret_that_goes_on_in_the_next_text_is_masked_in_both() -> None:
    lines = ["  begin sesame-", "", "  4711 end", "not-4711", "sesame-"]
    shown = Redactor(["sesame-4711"]).redact_lines(lines)
    assert shown == ["  begin ***", "", "  *** end", "not-4711", "sesame-"]


def test_one_of_many_secrets_is_masked_in_each_of_its_forms() -> None:
    secrets = [f"{drawn(20)}+{drawn(21)}" for _ in range(300)]
    redactor = Redactor(secrets)
    for secret in secrets[::30]:
        text = f"{secret}, {quote(secret)}, {b64encode(secret.encode()).decode()}, {secret[:9]}\n{secret[9:]}"
        assert redactor.redact(text) == "***, ***, ***, ***\n***"


@pytest.mark.parametrize("secrets", [["sesame-4711"], [f"{drawn(20)}+{drawn(21)}" for _ in range(300)]])
def test_masking_a_long_text_takes_little_memory(secrets: list[str]) -> None:
    redactor, text = Redactor(secrets), f"... {drawn(100_000)}"
    redactor.redact("...\n")  # the forms are made
    tracemalloc.start()
    try:
        assert redactor.redact(text) == text
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * len(text)


def test_the_forms_of_secrets_are_kept_up_to_a_limit() -> None:
    first = redactor_of(["sesame-4711", "sesame-4712"])
    assert redactor_of(["sesame-4711", "sesame-4712"]) is first
    assert redactor_of(["sesame-4711", "sesame-4713"]).redact("sesame-4712") == "sesame-4712"
    large = "x" * MAX_CACHED
    assert redactor_of([large]) is redactor_of([large])
    assert redactor_of(["sesame-4711", "sesame-4712"]) is not first
    assert redactor_of([f"{large}x"]) is not redactor_of([f"{large}x"])


def test_longer_secrets_are_masked_first() -> None:
    assert Redactor(["abcdef", "abcdef-and-more"]).redact("abcdef-and-more") == "***"


def test_short_secrets_are_left_alone_and_without_secrets_nothing_is_dropped() -> None:
    assert Redactor(["12345", ""]).redact("at 12345", cut_before=True, cut_after=True) == "at 12345"
    assert Redactor().redact("whole", cut_before=True, cut_after=True) == "whole"


@pytest.mark.parametrize(
    "secret",
    [
        drawn(6),
        drawn(68),
        drawn(3_000),
        "\n".join(drawn(64) for _ in range(30)),
        f"{drawn(20)}\n{drawn(3)}\n{drawn(700)}",
    ],
    ids=["6", "68", "3000", "lines", "uneven"],
)
def test_wherever_a_text_is_cut_nothing_of_a_secret_is_left(secret: str) -> None:
    redactor = Redactor([secret])
    text = f"{secret} in front, then {secret}{secret} and {secret} at the end, {secret}"
    assert not any(letter in redactor.redact(text) for letter in CAPITALS)
    step = max(1, len(text) // 700)
    for cut in range(1, len(text), step):
        begin = redactor.redact(text[:cut], cut_after=True)
        end = redactor.redact(text[cut:], cut_before=True)
        middle = redactor.redact(text[cut : cut + 2 * cut], cut_before=True, cut_after=True)
        assert not any(letter in part for part in (begin, end, middle) for letter in CAPITALS), cut


def test_an_edge_costs_little_of_the_text() -> None:
    text = "x" * 5_000
    assert len(Redactor([drawn(10_000)]).redact(text, cut_before=True)) > 4_400
    assert len(Redactor([drawn(40)]).redact(text, cut_before=True)) > 4_900


def test_a_text_that_others_shortened_is_masked_on_both_sides_of_the_ellipsis() -> None:
    class Model(BaseModel):
        count: int

    secret = drawn(68)
    with pytest.raises(ValidationError) as caught:
        Model(count=secret)  # type: ignore[arg-type]
    error = str(caught.value)
    assert secret[:20] in error, "pydantic shows some of it"
    assert "input_value='***...***'" in Redactor([secret]).redact(error)
    assert Redactor([secret]).redact(f"{secret[:30]}… and …{secret[30:]}") == "***… and …***"
    assert Redactor([secret]).redact("to be continued...") == "to be continued..."


def test_many_secrets_and_many_ellipses_are_looked_through_in_linear_time() -> None:
    keys = ["\n".join(b64encode(RANDOM.randbytes(48)).decode() for _ in range(50)) for _ in range(5)]
    redactor = Redactor(keys)
    text = "".join(f"and so on {keys[0][:9]}..." for _ in range(MAX_ELLIPSES))
    redactor.redact("")  # the forms are made once
    began = time.process_time()
    assert keys[0][:9] not in redactor.redact(text)
    assert time.process_time() - began < 1
