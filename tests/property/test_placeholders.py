"""Section 4.2: the placeholder grammar and substitution, against a small reference reading of it."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.contract.api import Api
from tests.support.helpers import declare, node_name, ok, open_client, place

DEFAULTS = {"d": "default value"}
STORE = {"required_keys": ["k"], "default_values": DEFAULTS}
EXAMPLES = 3 * settings().max_examples
OUTPUT_FIELDS = ("v", "field-2", "Ünï")

blanks = st.sampled_from(["", " ", "  ", "\t", "\n"])
names = st.sampled_from(["a", "store", "outputs", *OUTPUT_FIELDS, "k", "d", "b", "nothing", "", "A"])


@st.composite
def contents(draw: st.DrawFn) -> str:
    parts = draw(st.lists(names, min_size=1, max_size=4))
    return ".".join(draw(blanks) + part + draw(blanks) for part in parts)


valid = st.sampled_from(
    ["a.outputs.v", " a . outputs . field-2 ", "a.outputs.Ünï", "store.k", "store. d", "store.outputs.k"]
).map(lambda content: f"${{{{{content}}}}}")
fragments = st.one_of(
    valid,
    contents().map(lambda content: f"${{{{{content}}}}}"),
    st.sampled_from(["${{", "}}", "}", "{", "$", "${", "{{", "text", " ", ".", "}}}"]),
    st.text(alphabet="ab .$\"'\\\n{}é", max_size=4),
)
templates = st.lists(fragments, max_size=4).map("".join)
good_templates = st.lists(valid | st.text(alphabet="ab .\"'\\\n}é", max_size=4), max_size=5).map("".join)
values = st.text(max_size=8) | st.sampled_from(["${{a.outputs.v}}", "}}", "${{", "${{store.k}}"])


class Wrong(Exception):
    """The template breaks the grammar, or names what is not there."""


def read(template: str) -> list[tuple[str, str]]:
    """Return the pieces of ``template``: ("text" | "output" | "store", what)."""
    head, *pieces = template.split("${{")
    parts = [("text", head)]
    for piece in pieces:
        content, close, rest = piece.partition("}}")
        if not close:
            raise Wrong
        parts += [_reference([part.strip() for part in content.split(".")]), ("text", rest)]
    return parts


def _reference(parts: list[str]) -> tuple[str, str]:
    match parts:
        case ["store", key] | ["store", "outputs", key]:
            return "store", key
        case [identifier, "outputs", field]:
            if identifier != "a":
                raise Wrong
            return "output", field
    raise Wrong


def expected_status(template: str) -> tuple[int, str | None]:
    """Return the status code of putting it, and the validity of what was stored."""
    try:
        pieces = read(template)
    except Wrong:
        return 400, None
    if any(kind == "store" and what not in {"k", "d"} for kind, what in pieces):
        return 400, None
    known = all(kind != "output" or what in OUTPUT_FIELDS for kind, what in pieces)
    return 201, "VALID" if known else "INVALID"


async def _register(api: Api) -> None:
    ok(await api.register([declare(node_name("a"), [], OUTPUT_FIELDS), declare(node_name("b"), ["p"])]))


def _body(api: Api, template: str) -> dict[str, object]:
    return api.body([place("a", "b"), place("b", inputs={"p": template})], store_config=STORE)


@settings(max_examples=EXAMPLES)
@given(batch=st.lists(templates, min_size=8, max_size=8))
@example(batch=["${{a.outputs.v}}}", "}}${{store.k}}", "${{a.outputs.}}", "${{store.}}", "$${{store.d}}"])
async def test_a_graph_is_accepted_exactly_if_its_placeholders_are_well_formed(batch: list[str]) -> None:
    from exotrio.manager import embedded

    async with embedded(db=":memory:") as transport, open_client(transport=transport) as client:
        api = Api(client, "property")
        await _register(api)
        for template in batch:
            response = await api.put_graph("g", _body(api, template))
            validity = response.json().get("validation_status")
            assert (response.status_code, validity) == expected_status(template), (template, response.text)


@settings(max_examples=EXAMPLES)
@given(
    template=good_templates,
    outputs=st.fixed_dictionaries(dict.fromkeys(OUTPUT_FIELDS, values)),
    store=st.fixed_dictionaries({"k": values}, optional={"d": values}),
)
async def test_substitution_inserts_values_as_they_are(
    template: str, outputs: dict[str, str], store: dict[str, str]
) -> None:
    from exotrio.manager import embedded

    parts = {"output": outputs, "store": {**DEFAULTS, **store}}
    expected = "".join(what if kind == "text" else parts[kind][what] for kind, what in read(template))
    async with embedded(db=":memory:") as transport, open_client(transport=transport) as client:
        api = Api(client, "property")
        await _register(api)
        assert ok(await api.put_graph("g", _body(api, template)), 201)["validation_status"] == "VALID"
        ok(await api.trigger("g", store=store))
        (a,) = ok(await api.claim([node_name("a")], 1))["states"]
        ok(await api.executed(a["state_id"], outputs))
        (b,) = ok(await api.claim([node_name("b")], 1))["states"]
        assert b["inputs"] == {"p": expected}
