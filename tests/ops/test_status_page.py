"""The status page in a real browser: what it says, in which states, on which screens, to whom."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.ops import worlds
from tests.ops.browser import Tab
from worker.observe import records as r
from worker.observe.vitals import UserBudget

PHONE = 390
FINGER = 40  # pixels
FOCUSED = "(focused => focused.id || focused.ariaLabel || focused.textContent)(document.activeElement)"


async def test_it_needs_nothing_but_the_worker(tab: Tab) -> None:
    """One page and one document: no other address is asked, and the console stays empty."""
    with worlds.busy().served() as url:
        await tab.open(f"{url}/")
        await tab.polled(2)
    assert set(tab.requested) == {f"{url}/", f"{url}/status.json"}
    assert tab.problems == []


async def test_first_glance(tab: Tab) -> None:
    """Health, load, latency, lag, rejections, quality, savings and budgets stand above everything else."""
    with worlds.busy().served() as url:
        await tab.open(f"{url}/")
        assert "Ready" in await tab.text("#health")
        names = await tab.evaluate("[...document.querySelectorAll('#figures dt')].map(dt => dt.textContent)")
        values = await tab.evaluate("[...document.querySelectorAll('#figures .value')].map(dd => dd.textContent)")
    assert names == ["Decisions", "Latency p50", "Lag", "Rejected", "Quality", "Saved", "Budget used"]
    assert "–" not in values


async def test_empty_worker_says_what_is_missing(tab: Tab) -> None:
    """Before the first model and the first query every part says so, and nothing is NaN or undefined."""
    with worlds.empty().served() as url:
        await tab.open(f"{url}/")
        shown = await tab.text()
    assert "Not ready" in shown
    assert "no model is known" in shown
    assert "tables are recovering: 48210 records to go" in shown
    assert "No partition is assigned yet." in shown
    assert "10 min ago" not in shown, "no axes without a value"
    assert not any(word in shown for word in ("NaN", "undefined", "null", "Infinity"))
    assert tab.problems == []


async def test_thirty_models_fit(tab: Tab) -> None:
    """All are listed; the chart names the foremost and sums up the others; neither the page nor the table is cut."""
    with worlds.busy(30).served() as url:
        await tab.open(f"{url}/")
        assert await tab.evaluate("document.querySelectorAll('#models tbody tr').length") == 30
        legend = await tab.evaluate("[...document.querySelectorAll('#c-mix .legend li')].map(li => li.textContent)")
        assert len(legend) == 9
        assert legend[-1].endswith("others")
        assert await tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert await tab.evaluate(
            "(box => box.scrollWidth <= box.clientWidth)(document.querySelector('#models .scroll'))"
        )


@pytest.mark.parametrize("dark", [False, True])
async def test_phone(tab: Tab, *, dark: bool) -> None:
    """On a narrow screen only the tables scroll sideways, and links are large enough, by day and by night."""
    with worlds.busy(30).served() as url:
        await tab.open(f"{url}/", width=PHONE, height=844, dark=dark)
        assert await tab.evaluate("document.documentElement.scrollWidth") == PHONE
        links = await tab.evaluate("[...document.links].map(link => link.getBoundingClientRect().height)")
        assert min(links) >= FINGER


@pytest.mark.parametrize("dark", [False, True])
async def test_text_stands_out(tab: Tab, *, dark: bool) -> None:
    """Every text has at least the contrast of WCAG 2.2 AA, 4.5 to 1, against its own ground."""
    with worlds.busy().served() as url:
        await tab.open(f"{url}/", dark=dark)
        assert await tab.evaluate(CONTRAST) == []


async def test_the_keyboard_reaches_charts_and_tables(tab: Tab) -> None:
    """Tab walks through charts, tables and links in reading order; the arrows read a chart's earlier values."""
    with worlds.busy().served() as url:
        await tab.open(f"{url}/")
        visited = []
        for _ in range(9):
            await tab.press("Tab")
            visited.append(await tab.evaluate(FOCUSED))
        assert visited == [
            "c-rate", "c-latency", "c-mix", "c-worth", "Fullest users", "Models", "Lag by partition", "/status.json",
            "/metrics",
        ]  # fmt: skip
        await tab.evaluate("document.getElementById('c-rate').focus()")
        latest = await tab.text("#h-rate + .readout")
        await tab.press("ArrowLeft")
        await tab.press("ArrowLeft")
        assert await tab.text("#h-rate + .readout") != latest
        await tab.press("Escape")
        assert await tab.text("#h-rate + .readout") == latest


async def test_everything_has_a_name_for_screen_readers(tab: Tab) -> None:
    """Charts, tables, sections and lists are announced with what they show; drawings themselves are silent."""
    with worlds.busy().served() as url:
        await tab.open(f"{url}/")
        nodes = (await tab.call("Accessibility.getFullAXTree"))["nodes"]
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in ("image", "img", "region", "table", "heading", "link")
    ]
    assert [role for role, name in named if not name] == []
    charts = [name for role, name in named if role in ("image", "img")]
    assert [name.split(",")[0] for name in charts] == [
        "Decisions a second", "Latency", "Share of models", "Quality and cost as shares of the best model's",
    ]  # fmt: skip
    assert {name for role, name in named if role == "table"} == {"Fullest users", "Models", "Lag by partition"}


async def test_names_are_text(tab: Tab) -> None:
    """A user or model named like markup is shown as it is, and nothing of it runs."""
    markup = "<img src=x onerror=\"document.title='owned'\">"
    world = worlds.busy(3, steps=3)
    fullest = (UserBudget(markup, 10, 9, 0), *world.vitals.budgets.fullest)
    arms = (replace(world.vitals.arms[0], model=markup), *world.vitals.arms)
    world.vitals = replace(world.vitals, arms=arms, budgets=replace(world.vitals.budgets, fullest=fullest))
    world.step(r.DecisionSent("pacing", "routed", markup, None))
    with world.served() as url:
        await tab.open(f"{url}/")
        assert await tab.evaluate("document.querySelector('#budgets tbody th').textContent") == markup
        assert await tab.evaluate("document.querySelectorAll('img').length") == 0
        assert "owned" not in await tab.evaluate("document.title")


async def test_it_lives(tab: Tab) -> None:
    """What happens while the page is open appears by itself, and so does trouble."""
    world = worlds.busy(steps=3)
    with world.served() as url:
        await tab.open(f"{url}/")
        before = await tab.text("#figures")
        world.step(*[r.DecisionSent("pacing", "routed", "claude-v2", None)] * 400)
        world.not_live = ["pilot.queries/2 has input and no commit for 6 s"]
        await tab.until("document.getElementById('health').textContent.includes('no commit for 6 s')")
        assert await tab.text("#figures") != before
        assert "Standing still" in await tab.text("#health")
        assert (await tab.evaluate("document.title")).startswith("⚠")


async def test_a_worker_that_is_gone_is_said(tab: Tab) -> None:
    """The last values stay, marked as old, and the page says since when."""
    with worlds.busy(steps=3).served() as url:
        await tab.open(f"{url}/")
        await tab.unplug()
        await tab.until("document.body.classList.contains('stale')")
    assert "No answer since" in await tab.text("#health")
    assert await tab.evaluate("document.querySelectorAll('#models tbody tr').length") > 0


# Relative luminance and contrast as WCAG 2.2 defines them, over every element with text of its own.
CONTRAST = r"""
(() => {
  const rgb = colour => colour.match(/[\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = el => { for (; el; el = el.parentElement) {
    const found = rgb(getComputedStyle(el).backgroundColor); if (found.length < 4 || found[3] > 0) return found; } };
  const poor = [];
  for (const el of document.querySelectorAll("body *")) {
    const speaks = [...el.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!speaks || el.closest("script, svg, .hidden")) continue;
    const [a, b] = [luminance(rgb(getComputedStyle(el).color)), luminance(ground(el))];
    const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (contrast < 4.5) poor.push(`${el.textContent.slice(0, 40)}: ${contrast.toFixed(2)}`);
  }
  return poor;
})()
"""
