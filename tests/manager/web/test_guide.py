"""The guide of the dashboard: the pages of this version, whose links lead to each other."""

from __future__ import annotations

import re

from tests.support.pages import CHANGES, GUIDE, PRODUCTION, PROOF, README, text, without_code
from tests.support.web import Site

NAMES = {"readme": README, "guide": GUIDE, "production": PRODUCTION, "proof": PROOF, "changes": CHANGES}


async def test_each_page_of_the_guide_is_complete_and_its_links_have_targets(site: Site) -> None:
    overview = await site.browser.page("/ns/default")
    assert '<a href="/guide">Guide</a>' in overview
    api = (await site.browser.get("/docs")).text
    assert '<a href="/docs" aria-current="page">API</a>' in api
    assert "--ground:" in api, "it has the style of the other pages in it"
    assert {f"/guide/{name}" for name in NAMES} <= set(re.findall('<a href="([^"]+)"', api))
    pages = {f"/guide/{name}": await site.browser.page(f"/guide/{name}") for name in NAMES}
    assert await site.browser.page("/guide") == pages["/guide/guide"]
    await site.browser.page("/guide/other", status=404)
    assert 'href="/guide/guide#tutorial"' in pages["/guide/readme"]
    for name, page in NAMES.items():
        served = pages[f"/guide/{name}"]
        for heading in re.findall(r"^#+ ([\w ]+)$", without_code(page), re.M):
            assert re.search(rf'<h\d id="[\w-]+">{heading}</h\d>', served), heading
        assert served.count("<pre>") == len(re.findall("^```", text(page), re.M)) / 2
        assert served.count("<table>") == len(re.findall(r"^\|(?:-+\|)+$", text(page), re.M))
        for path, anchor in re.findall(r'href="(?!https:|/static/)([^"#]*)#?([^"]*)"', served):
            if path in ("/", "/docs", "/guide"):
                continue
            target = pages[path] if path else served
            assert not anchor or f'id="{anchor}"' in target, f"{name}: {path}#{anchor}"
        assert "src=" not in served, "it would be in the repository only"


async def test_the_guide_requires_a_session(site: Site) -> None:
    answer = await site.anonymous.get("/guide/proof")
    assert answer.headers["location"] == "/sign-in?to=%2Fguide%2Fproof"
