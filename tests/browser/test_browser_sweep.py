"""sweep.html in a real browser: points that lead to runs, settings that open."""

import time

import pytest

from layerscope.report.sweep.report import save_sweep
from layerscope.report.sweep.results import sweep_results
from sweep_example import make_job

pytestmark = pytest.mark.browser

LONG = "a_value_without_any_place_to_break_it_" * 4
# Labels of one drawing that lie on each other.
OVERLAPS = (
    "[...document.querySelectorAll('svg.sweep')].map(s => [...s.querySelectorAll('text')]"
    ".map(t => t.getBoundingClientRect()).filter((a, i, all) => all.slice(i + 1).some(b =>"
    " a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3"
    ")).length).reduce((a, b) => a + b)"
)
OUTSIDE = (
    "[...document.querySelectorAll('svg.sweep')].map(s => { const box = s.getBoundingClientRect();"
    "return [...s.querySelectorAll('text')].map(t => t.getBoundingClientRect()).filter(r =>"
    " r.left < box.left - 1 || r.right > box.right + 1 || r.bottom > box.bottom + 1).length; })"
    ".reduce((a, b) => a + b)"
)


@pytest.fixture(scope="module")
def page_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    for number in range(24):
        width, seed = 2 ** (number // 3), number % 3
        overrides = [f"model.width={width}", f"seed={seed}", f"model.name={LONG}{width}"]
        job = folder / f"{number} #?"
        make_job(job, overrides, 0.4 + 0.05 * (number // 3) + 0.03 * seed, size=1000 * width)
    save_sweep(folder, sweep_results(folder, has_ended=False))
    return folder / "sweep.html"


@pytest.fixture(params=[(1300, "light"), (390, "dark")], ids=str)
def page(request, browser, page_path):
    width, scheme = request.param
    return browser.open(page_path, width, scheme=scheme)


def test_the_page_is_whole(page, page_path):
    page.click("#expand")
    page.click("#settings-table thead th:nth-child(4) button")
    assert page.requests == [page_path.resolve().as_uri()]
    assert page.complaints == []
    sizes = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert sizes[0] <= sizes[1]
    assert page.evaluate(OUTSIDE) == 0
    assert page.evaluate(OVERLAPS) == 0
    heights = page.evaluate(
        "[...document.querySelectorAll('svg.sweep text')]"
        ".map(t => t.getBoundingClientRect().height)"
    )
    assert min(heights) >= 10


def test_a_click_on_a_point_opens_the_folder_of_its_run(page):
    link = page.evaluate("document.querySelector('svg.sweep a').href.baseVal")
    page.click("svg.sweep a")
    end = time.monotonic() + 10
    while len(page.requests) == 1 and time.monotonic() < end:
        page.evaluate("1")  # reads what has happened
    opened = [url for url in page.requests if not url.startswith("data:")][1:]
    assert opened[0].rstrip("/").endswith(link.removeprefix("."))
