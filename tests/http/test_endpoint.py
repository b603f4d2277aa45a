"""Which state manager is meant, and with which key."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from exotrio._http import endpoint as endpoint_http
from exotrio._http.endpoint import Endpoint, ambient_endpoint, resolve_endpoint
from tests.support.http_doubles import answer

pytestmark = pytest.mark.usefixtures("unconfigured")


def test_a_missing_uri_and_a_missing_key_are_reported_together() -> None:
    endpoint, problems = resolve_endpoint(None, None, None)
    assert endpoint is None
    assert "EXOSPHERE_STATE_MANAGER_URI" in problems[0]
    assert "EXOSPHERE_API_KEY" in problems[1]


def test_arguments_come_before_the_environment_and_a_trailing_slash_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EXOSPHERE_STATE_MANAGER_URI", "http://from-environment")
    monkeypatch.setenv("EXOSPHERE_API_KEY", "key-from-environment")
    assert resolve_endpoint(None, None) == (Endpoint("http://from-environment", "key-from-environment"), [])
    assert resolve_endpoint("http://mine/", "k") == (Endpoint("http://mine", "k"), [])


@pytest.mark.parametrize(
    ("uri_from", "key_from", "warned"),
    [
        ("environment", "environment", False),
        ("file", "file", False),
        ("file", "environment", True),
        ("environment", "file", True),
        ("file", "argument", True),
        ("argument", "environment", False),
        ("argument", "file", False),
        ("environment", "argument", False),
    ],
)
def test_a_key_is_not_sent_unasked_to_an_address_from_another_source(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    uri_from: str,
    key_from: str,
    warned: bool,
) -> None:
    endpoint_http._warn_of_sources.cache_clear()
    values = {
        "EXOSPHERE_STATE_MANAGER_URI": (uri_from, "http://there"),
        "EXOSPHERE_API_KEY": (key_from, "k"),
    }
    lines = []
    for name, (source, value) in values.items():
        if source == "environment":
            monkeypatch.setenv(name, value)
        elif source == "file":
            lines.append(f"{name}={value}")
    (tmp_path / ".env").write_text("\n".join(lines))
    for _ in range(2):
        endpoint, problems = resolve_endpoint(
            "http://there" if uri_from == "argument" else None, "k" if key_from == "argument" else None
        )
        assert (endpoint, problems) == (Endpoint("http://there", "k"), [])
    names = {
        "argument": ("argument state_manager_uri", "argument key"),
        "environment": tuple(f"variable {name}" for name in values),
        "file": tuple(f"variable {name} in .env of the working directory" for name in values),
    }
    warning = (
        f"the API key ({names[key_from][1]}) is sent to http://there ({names[uri_from][0]}): if they do not"
        " belong together, name both in one place"
    )
    assert caplog.messages == ([warning] if warned else [])


@pytest.mark.parametrize("uri", ["localhost:8000", "ftp://x", "http://", "http://x:99999", "http://x/?a=1"])
def test_a_uri_that_cannot_be_used_is_a_problem_that_names_its_source(uri: str) -> None:
    endpoint, problems = resolve_endpoint(uri, "k")
    assert endpoint is None
    assert "argument state_manager_uri" in problems[0]


@pytest.mark.parametrize("key", ["secret\n", " my-secret", "sécret"])
def test_a_key_no_header_can_carry_is_a_problem_that_does_not_show_it(key: str) -> None:
    endpoint, problems = resolve_endpoint("http://x", key)
    assert endpoint is None
    assert key not in problems[0]


def test_with_a_transport_neither_uri_nor_key_is_needed() -> None:
    transport = httpx.MockTransport(lambda _: answer(200))
    endpoint, problems = resolve_endpoint(None, None, transport)
    assert endpoint is not None
    assert endpoint.transport is transport
    assert problems == []


def test_neither_key_nor_password_appears_in_texts() -> None:
    endpoint = Endpoint("http://user:password@host:1", "the-key")
    assert endpoint.shown == "http://host:1"
    assert "the-key" not in repr(endpoint)


def test_a_key_argument_is_used_with_a_state_manager_of_last_resort() -> None:
    with ambient_endpoint(Endpoint("http://here", "key-of-here"), is_last_resort=True):
        assert resolve_endpoint(None, None) == (Endpoint("http://here", "key-of-here"), [])
        assert resolve_endpoint(None, "given") == (Endpoint("http://here", "given"), [])
