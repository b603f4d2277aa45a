"""How far it goes, at a tiny size: every row of its tables is there."""

from __future__ import annotations

import pytest

from tests.bench.scale.command import main


@pytest.mark.long_form
@pytest.mark.parametrize("engine", [[], ["--postgres"]], ids=["SQLite", "PostgreSQL"])
@pytest.mark.parametrize(
    ("arguments", "last"),
    [
        (["rows", "--finished", "1000", "--waiting", "10000"], "claims meanwhile"),
        (["graphs", "--graphs", "4", "--namespaces", "2"], "memory, started again"),
        (["fan", "--outputs", "50"], "memory of the state manager"),
        (
            ["runtimes", "--runtimes", "5", "--runs", "20", "--seconds", "0.5"],
            "and then from a trigger to the outcome",
        ),
    ],
)
def test_every_row_is_measured(
    arguments: list[str], last: str, engine: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main([*arguments, *engine])
    assert f"| {last} |" in capsys.readouterr().out
