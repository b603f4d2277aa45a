"""Every page of a busy state manager: it keeps its shape at any width, nothing is out of reach, and axe-core
finds no obstacle for people who see or move differently.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files

import pytest

from tests.browser.chromium import expect
from tests.browser.visitors import Visitors
from tests.browser.world import World, world

WIDTHS = (360, 390, 768, 1_024, 1_250, 1_400, 1_700)

OUT_OF_SHAPE = """() => {
    const right = (each) => each.getBoundingClientRect().right;
    const scrolls = (each) => {
        for (let at = each.parentElement; at; at = at.parentElement) {
            if (getComputedStyle(at).overflowX !== "visible" && right(at) <= innerWidth) return true;
        }
        return false;
    };
    const seen = (root) => [...root.querySelectorAll("*")].filter((each) =>
        !each.closest(".unseen, .skip, .list thead") && each.checkVisibility() && !scrolls(each));
    const called = (each) => `${each.localName}.${each.getAttribute("class")} "${each.textContent.trim()}"`;
    const found = [];
    const wide = document.documentElement.scrollWidth;
    if (wide > innerWidth) found.push(`the page is ${wide} wide`);
    const isLong = location.pathname.length > 200;
    for (const each of document.querySelectorAll(".scroll")) {
        if (innerWidth >= 1400 && !isLong && each.scrollWidth > each.clientWidth) {
            found.push(`${called(each)} is cut off: ${each.scrollWidth} of ${each.clientWidth}`);
        }
    }
    for (const each of seen(document.body)) {
        if (right(each) > innerWidth + 1) found.push(`${called(each)} reaches to ${right(each)}`);
    }
    for (const card of document.querySelectorAll("section, .card, .tile, .summary, .bulk")) {
        for (const each of seen(card)) {
            if (right(each) > right(card) + 1) found.push(`${called(each)} leaves its card`);
        }
    }
    for (const list of document.querySelectorAll("table.list, .overview, .tiles")) {
        const bars = [...list.querySelectorAll(".bar")].map((each) => Math.round(right(each)));
        if (new Set(bars).size > 1) found.push(`bars end at ${[...new Set(bars)]}`);
    }
    const charts = [...document.querySelectorAll(".trends .chart")]
        .map((each) => each.getBoundingClientRect());
    if (charts.length && charts[0].left !== charts[1].left && charts[0].top !== charts[1].top) {
        found.push("charts side by side begin at different heights");
    }
    const top = (each) => {
        const range = document.createRange();
        range.selectNodeContents(each);
        return range.getBoundingClientRect().top;
    };
    for (const list of innerWidth >= 864 ? document.querySelectorAll("table.list") : []) {
        const rows = [...list.querySelectorAll("tr")].filter((row) => row.querySelector("td > .chip"));
        const drops = rows.map((row) => top(row.querySelector(".chip")) - top(row.querySelector("th *")));
        if (rows.length && Math.max(...drops) - Math.min(...drops) > 1) {
            found.push(`words of statuses are off the lines of their rows: ${drops}`);
        }
    }
    const left = (each) => Math.round(each.getBoundingClientRect().left);
    const edges = (row) => [...document.querySelectorAll(`${row} > *`)].map(left);
    const lines = new Set(edges(".tiles"));
    if (lines.size && edges(".overview").some((each) => !lines.has(each))) found.push("cards in disorder");
    const highest = innerWidth < 864 ? 100 : 40;
    for (const row of document.querySelectorAll(":is(form, .overview) tbody > tr")) {
        const { height } = row.getBoundingClientRect();
        const isUsual = !isLong && row.querySelector("th")?.textContent.length < 60;
        if (isUsual && height > highest) found.push(`a row is ${Math.round(height)} high`);
    }
    return found.slice(0, 3).map((text) => text.slice(0, 200));
}"""


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("world")) as served:
        yield served


def test_every_page_keeps_its_shape_at_any_width(visitors: Visitors, busy: World) -> None:
    page = visitors.signed_in(busy.url, timezone_id="America/Argentina/Buenos_Aires")  # longer than UTC alone
    problems = []
    for name in busy.links:
        busy.show(page, name)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            problems += [f"{name} at {width}: {what}" for what in page.evaluate(OUT_OF_SHAPE)]
        if "run" in name or "export" in name:
            page.set_viewport_size({"width": 718, "height": 800})  # A4, at the margins of Chromium
            page.emulate_media(media="print")
            problems += [f"{name} on paper: {what}" for what in page.evaluate(OUT_OF_SHAPE)]
            page.emulate_media(media="screen")
    assert not problems, "\n".join(problems)


NO_UPDATES = """() => {
    for (const each of document.querySelectorAll("[data-fragment]")) each.removeAttribute("data-fragment");
}"""


def test_menus_stay_within_the_window(visitors: Visitors, busy: World) -> None:
    page = visitors.signed_in(busy.url)
    seen = 0
    for name in ("runs", "run-audit", "runtimes"):
        page.goto(busy.links[name])
        # A fragment that is replaced takes an open menu with it, if what it is for has changed.
        page.evaluate(NO_UPDATES)
        if name == "runs":
            page.set_viewport_size({"width": 390, "height": 800})
            page.get_by_label("Tick all").check()
            expect(page.locator("tbody input:checked")).to_have_count(page.locator("tbody tr").count())
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            for summary in page.locator(".confirm > summary, .menu > summary").all():
                summary.click()
                box = summary.locator("xpath=following-sibling::*").bounding_box()
                assert box is not None
                assert box["x"] >= 0, f"{name} at {width}"
                assert box["x"] + box["width"] <= width, f"{name} at {width}"
                page.keyboard.press("Escape")
                seen += 1
    assert seen > 3 * len(WIDTHS)


# axe-core takes its time for each element, and later rows are like the first.
FIRST_ROWS = """() => {
    const rows = ["tbody > tr", ".rows > li", ".timeline a", ".timeline rect", ".chart g"];
    const later = rows.map((each) => `${each}:nth-child(n + 4)`);
    const long = ["article > :nth-child(n + 60)", "main > details:nth-of-type(n + 20)"];
    for (const each of document.querySelectorAll([...later, ...long])) each.remove();
}"""
AXE = """async () => (await axe.run({ resultTypes: ["violations"], preload: false })).violations
    .map(({ id, nodes }) => `${id}: ${nodes[0].html} ${nodes[0].failureSummary}`.slice(0, 400))"""
OPENED = """() => document.querySelectorAll("details").forEach((each) => { each.open = true; })"""


def test_axe_finds_nothing_on_any_page(visitors: Visitors, busy: World) -> None:
    axe = (files("axe_playwright_python") / "axe.min.js").read_text("utf-8")
    page = visitors.signed_in(busy.url, reduced_motion="reduce")
    problems = []
    for index, name in enumerate([*busy.links, "sign-in"]):
        page.set_viewport_size({"width": 1_400, "height": 800})
        page.emulate_media(color_scheme="light")
        if name == "sign-in":
            page.context.clear_cookies()
            page.goto("/sign-in")
        else:
            busy.show(page, name)
        page.evaluate(NO_UPDATES)
        page.evaluate(FIRST_ROWS)
        page.evaluate(axe)
        # Of the pages that there are several of (run-audit, run-orders), every second one in each way.
        if "-" not in name or index % 2:
            problems += [f"{name}, light, wide: {what}" for what in page.evaluate(AXE)]
        if "-" not in name or not index % 2:
            page.set_viewport_size({"width": 390, "height": 800})
            page.emulate_media(color_scheme="dark")
            page.evaluate(OPENED)
            problems += [f"{name}, dark, narrow: {what}" for what in page.evaluate(AXE)]
    assert problems == []
