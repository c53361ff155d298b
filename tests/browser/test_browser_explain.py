"""explain.html in a real browser: what a person reads, follows and scrolls."""

import pytest
import torch

from layerscope.explain.engine import explain_network
from layerscope.explain.explanation import ExplainSettings
from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.report.explain.report import write_document

pytestmark = pytest.mark.browser

SHAPE = (2, 3, 32, 32)
HEIGHTS = (
    "[...document.querySelectorAll('math')].filter(m => m.checkVisibility()"
    " && !(m.getBoundingClientRect().width > 0 && m.getBoundingClientRect().height > 0)).length"
)
DEAD = (
    "[...document.querySelectorAll('a')].filter(a => !document.getElementById("
    "decodeURIComponent(a.hash.slice(1)))).map(a => a.hash)"
)
# Everything wider than the window, outside of a box that scrolls by itself.
TOO_WIDE = (
    "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll')"
    " && e.getBoundingClientRect().right > window.innerWidth + 1).length"
)


@pytest.fixture(scope="module")
def page_path(tmp_path_factory):
    torch.manual_seed(0)
    settings = ExplainSettings("a_long_name_without_a_place_to_break_" * 3, SHAPE)
    explanation = explain_network(CifarCNN(), settings, torch.rand(SHAPE), analysis=False)
    folder = tmp_path_factory.mktemp("explain")
    write_document(folder, explanation)
    return folder / "explain.html"


@pytest.fixture(scope="module", params=[(1300, "light"), (360, "dark")], ids=str)
def page(request, browser, page_path):
    width, scheme = request.param
    return browser.open(page_path, width, scheme=scheme)


def test_nothing_is_fetched_and_nothing_complains(page, page_path):
    assert page.requests == [page_path.resolve().as_uri()]
    assert page.complaints == []


def test_every_link_leads_to_a_place_and_a_click_goes_there(page):
    assert page.evaluate("document.querySelectorAll('a').length") > 55
    assert page.evaluate(DEAD) == []
    page.click("a[href='#gradients-of-block2conv-conv2d']")
    assert page.evaluate("location.hash") == "#gradients-of-block2conv-conv2d"
    top = page.evaluate("document.querySelector(':target').getBoundingClientRect().top")
    assert 0 <= top < 40


def test_the_page_itself_never_scrolls_sideways(page):
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    sizes = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert sizes[0] <= sizes[1]
    assert page.evaluate(TOO_WIDE) == 0


def test_field_filter_and_products_stand_beside_each_other_where_there_is_room(page):
    tops = page.evaluate(
        "[...document.querySelector('.row').children].map(e => e.getBoundingClientRect().top)"
    )
    is_wide = page.evaluate("window.innerWidth > 1200")
    assert len(tops) == 3
    assert len(set(tops)) == (1 if is_wide else 3)


def test_words_in_tables_are_whole(page):
    """A cell breaks between words only: no narrower than its longest one."""
    broken = page.evaluate(
        "[...document.querySelectorAll('td, th')].filter(c => c.checkVisibility()"
        " && c.scrollWidth > c.clientWidth + 1).length"
    )
    assert broken == 0


def test_formulas_are_drawn(page):
    assert page.evaluate("document.querySelectorAll('math').length") > 400
    assert page.evaluate(HEIGHTS) == 0
    assert page.evaluate("document.querySelectorAll('merror').length") == 0
    raised = page.evaluate(
        "(() => { const f = document.querySelector('#size-of-the-output ~ .formula mfrac');"
        "const [a, b] = [...f.children].map(c => c.getBoundingClientRect());"
        "return a.bottom <= b.top + 2; })()"
    )
    assert raised


def test_the_drawing_shows_every_layer_in_readable_letters(page):
    names = page.evaluate(
        "[...document.querySelectorAll('.overview .name')].map(t => t.textContent)"
    )
    assert len(names) == 16
    heights = page.evaluate(
        "[...document.querySelectorAll('.overview text')]"
        ".map(t => t.getBoundingClientRect().height)"
    )
    assert min(heights) >= 12
    overlaps = page.evaluate(
        "[...document.querySelectorAll('.overview text')].map(t => t.getBoundingClientRect())"
        ".filter((a, i, all) => all.slice(i + 1).some(b => a.left < b.right - 1 && b.left < "
        "a.right - 1 && a.top < b.bottom - 4 && b.top < a.bottom - 4)).length"
    )
    assert overlaps == 0


def test_colours_stand_out_from_the_paper(page):
    """The least contrast that WCAG asks of text, 4.5."""
    contrasts = page.evaluate(
        "(() => { const parts = c => c.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)"
        ".map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);"
        "const light = c => { const [r, g, b] = parts(c);"
        "return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05; };"
        "const paper = light(getComputedStyle(document.body).backgroundColor);"
        "return ['magenta', 'blue', 'orange', 'green', 'red', 'purple'].map(name => {"
        "const ink = light(getComputedStyle(document.querySelector('.' + name)).color);"
        "return Math.max(ink, paper) / Math.min(ink, paper); }); })()"
    )
    assert min(contrasts) >= 4.5
