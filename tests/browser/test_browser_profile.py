"""The saved page in a real browser: what a person sees, sorts and opens."""

from dataclasses import replace

import pytest
from torch import nn

from layerscope.audit import audit_network, walkthrough
from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.report.profile.report import ProfileReport
from profile_example import cifar_cnn_profile, profile_of

pytestmark = pytest.mark.browser

LONG = "a_name_without_any_place_to_break_it_" * 4
NAMES = "[...document.querySelectorAll('#layer-table tbody th button')].map(b => b.textContent)"
SORTED = "[...document.querySelectorAll('#layer-table thead th')].map(h => h.ariaSort)"
FLOPS = (
    "[...document.querySelector('#layer-table').tBodies]"
    ".map(b => Number(b.rows[0].cells[7].dataset.sort))"
)


@pytest.fixture(scope="module")
def page_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    profile = cifar_cnn_profile()
    audit = audit_network(CifarCNN(), walkthrough())
    long = replace(audit.cells[0], where=LONG, verdict="wrong")
    ProfileReport(profile, replace(audit, cells=(long, *audit.cells))).save(folder)
    return folder / "profile.html"


@pytest.fixture(params=[(1400, "light"), (400, "light"), (400, "dark")], ids=str)
def page(request, browser, page_path):
    width, scheme = request.param
    return browser.open(page_path, width, scheme=scheme)


def test_nothing_is_fetched_and_nothing_complains(page, page_path):
    page.click("#expand")
    page.click("#layer-table thead th:nth-child(5) button")
    assert page.requests == [page_path.resolve().as_uri()]
    assert page.complaints == []


def test_the_policy_forbids_what_the_page_does_not_need(browser, page_path):
    page = browser.open(page_path, 800)
    page.evaluate("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/'}))")
    page.evaluate("fetch('http://127.0.0.1:9/').catch(() => 0)")
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'),"
        "{textContent: 'window.intruder = 1'}))"
    )
    assert page.evaluate("window.intruder") is None
    assert any("Content Security Policy" in complaint for complaint in page.complaints)
    # Chromium may announce a request that the policy then stops; none may get an answer.
    assert not [e for e in browser.events if e["method"] == "Network.responseReceived"
                and "127.0.0.1" in e["params"]["response"]["url"]]  # fmt: skip


def test_the_page_itself_never_scrolls_sideways(page):
    page.click("#expand")
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    root = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert root[0] <= root[1]
    page.evaluate("window.scrollTo(1000, 0)")
    assert page.evaluate("window.scrollX") == 0


def test_the_verdict_is_seen_without_scrolling(page):
    seen = "document.querySelector('.verdict').getBoundingClientRect().bottom < window.innerHeight"
    assert page.evaluate(seen)
    assert "unexplained of" in page.evaluate("document.querySelector('.verdict').innerText")


def test_the_layers_can_be_read_folded(page):
    folded = (
        "[...document.querySelectorAll('details')]"
        ".find(d => /depth 1/.test(d.querySelector('summary').innerText))"
    )
    page.evaluate(f"{folded}.open = true")
    rows = page.evaluate(f"[...{folded}.querySelectorAll('tbody tr')].map(r => r.innerText)")
    assert [row.split("\t")[0] for row in rows] == [
        "block1", "block2", "block3", "gap", "flatten", "fc",
    ]  # fmt: skip


def test_names_that_cannot_break_do_not_widen_it(browser, tmp_path):
    network = nn.Sequential()
    network.add_module(LONG, nn.Conv2d(3, 4, 3))
    ProfileReport(profile_of(network, (2, 3, 8, 8))).save(tmp_path)
    page = browser.open(tmp_path / "profile.html", 400)
    page.click("#expand")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_a_click_sorts_numbers_as_numbers_and_the_next_the_other_way(page):
    before = page.evaluate(NAMES)
    assert before[:2] == ["block1.conv", "block1.bn"]
    page.click("#layer-table thead th:nth-child(8) button")
    flops = page.evaluate(FLOPS)
    assert flops == sorted(flops, reverse=True)
    assert flops[0] == 301_989_888
    # Equal ones stay in execution order.
    assert page.evaluate(NAMES)[:3] == ["block2.conv", "block3.conv", "block1.conv"]
    assert page.evaluate(SORTED)[7] == "descending"
    page.click("#layer-table thead th:nth-child(8) button")
    assert page.evaluate(FLOPS) == sorted(flops)
    assert page.evaluate(SORTED).count("ascending") == 1
    page.click("#layer-table thead th:nth-child(1) button")
    assert page.evaluate(NAMES) == before


def test_equals_stand_in_execution_order_whatever_was_sorted_before(page):
    order = page.evaluate(NAMES)
    for _ in range(2):
        page.click("#layer-table thead th:nth-child(2) button")
    page.click("#layer-table thead th:nth-child(5) button")  # parameters, the most first
    names = page.evaluate(NAMES)
    without = names[7:]
    assert without[:2] == ["block1.relu", "block1.pool"]
    assert without == [name for name in order if name in without]


def test_names_sort_as_text_and_unknown_stays_last(page):
    page.click("#layer-table thead th:nth-child(2) button")
    names = page.evaluate(NAMES)
    assert names == sorted(names)
    # flatten computes nothing, so its place under the roofline is unknown.
    for _ in range(2):
        page.click("#layer-table thead th:nth-child(12) button")
        assert page.evaluate(NAMES)[-1] == "flatten"


def test_the_keyboard_sorts_too(page):
    page.evaluate("document.querySelector('#layer-table thead th:nth-child(8) button').focus()")
    page.press("Enter")
    assert page.evaluate(SORTED)[7] == "descending"


def test_a_layer_opens_and_follows_its_row(page):
    details = "document.querySelector('#layer-5')"
    assert page.evaluate(f"{details}.hidden") is True
    page.click("#layer-table [aria-controls='layer-5']")
    assert page.evaluate(f"{details}.hidden") is False
    assert "301,989,888" in page.evaluate(f"{details}.innerText")
    assert page.evaluate(f"{details}.querySelectorAll('math').length") >= 6
    page.click("#layer-table thead th:nth-child(8) button")
    row = f"{details}.previousElementSibling.querySelector('button').textContent"
    assert page.evaluate(row) == "block2.conv"
    page.click("#layer-table [aria-controls='layer-5']")
    assert page.evaluate(f"{details}.hidden") is True


def test_formulas_are_drawn_as_mathematics(page):
    page.click("#layer-table [aria-controls='layer-1']")
    lowered = page.evaluate(
        "(() => { const m = document.querySelector('#layer-1 msub');"
        "const [a, b] = [...m.children].map(c => c.getBoundingClientRect());"
        "return b.bottom > a.bottom && b.left >= a.right - 1; })()"
    )
    assert lowered


def test_words_and_paper_differ_in_both_colour_schemes(page):
    colours = page.evaluate(
        "['color', 'backgroundColor'].map(p => getComputedStyle(document.body)[p]"
        ".match(/\\d+/g).slice(0, 3).map(Number).reduce((a, b) => a + b) / 3)"
    )
    assert abs(colours[0] - colours[1]) > 150


def test_the_charts_are_there_and_labelled(page):
    titles = page.evaluate("[...document.querySelectorAll('svg')].map(s => s.ariaLabel)")
    assert titles[0] == "Memory over a training step"
    assert titles[2] == "Roofline"
    assert page.evaluate("document.querySelectorAll('svg path.curve').length") == 2
    assert page.evaluate("document.querySelectorAll('svg .forward').length") == 15 * 2 + 1


def test_without_script_everything_is_shown(browser, page_path):
    page = browser.open(page_path, 800, script=False)
    assert page.evaluate("document.querySelector('#layer-5').hidden") is False
