"""explain.md and explain.html: every link leads somewhere and every printed sum is right."""

import re
from math import exp, fsum, log, sqrt
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
import torch
from markdown_it import MarkdownIt
from torch import nn

from layerscope.explain.engine import explain_network
from layerscope.explain.explanation import ExplainSettings
from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.networks.simple_cnn import SimpleCNN
from layerscope.networks.tiny_cnn import TinyCNN
from layerscope.report.document import Document, Paragraph, anchors, markup
from layerscope.report.explain.analysis_section import analysis_section
from layerscope.report.explain.report import write_document
from layerscope.report.explain.values import value_blocks
from layerscope.report.html import to_page
from layerscope.report.markdown import to_markdown
from layerscope.whatif import COLUMNS, Finding, VariantFigure

EVIL = "<script>alert(1)</script>"


def explained(network, shape, **settings):
    torch.manual_seed(0)
    chosen = ExplainSettings(type(network).__name__, shape, **settings)
    return explain_network(network, chosen, torch.rand(shape), analysis=False)


def evil_network():
    layers = {EVIL: nn.Conv2d(1, 2, 3), "a|b": nn.ReLU(), "$x$ `c` [d](e)": nn.Conv2d(2, 1, 4)}
    network = nn.Sequential()
    for name, layer in layers.items():
        network.add_module(name, layer)
    return network.append(nn.Flatten())


class Unknown(nn.Module):
    def forward(self, x):
        return torch.sin(x)


NETWORKS = {
    "tiny_cnn": lambda: explained(TinyCNN(), (1, 1, 8, 8)),
    "simple_cnn": lambda: explained(SimpleCNN(), (2, 1, 4, 4)),
    "cifar_cnn": lambda: explained(CifarCNN(), (32, 3, 32, 32)),
    "evil": lambda: explained(evil_network(), (1, 1, 6, 6)),
}


@pytest.fixture(scope="module", params=NETWORKS)
def written(request, tmp_path_factory):
    explanation = NETWORKS[request.param]()
    folder = tmp_path_factory.mktemp(request.param)
    paths = write_document(folder, explanation)
    assert [path.name for path in paths] == ["explain.md", "explain.html", "explain.svg"]
    return explanation, *(path.read_text("utf-8") for path in paths)


def slugs_of(markdown):
    """Anchors of the headings, as a reader of Markdown finds them."""
    parser = MarkdownIt("commonmark").enable("table")
    tokens = parser.parse(markdown)
    inside = [tokens[n + 1] for n, token in enumerate(tokens) if token.type == "heading_open"]
    return anchors("".join(child.content for child in token.children) for token in inside)


def test_every_link_of_the_markdown_leads_to_a_heading(written):
    _, markdown, _, _ = written
    links = re.findall(r"\]\(#([^)]*)\)", markdown)
    assert len(links) > 20
    assert set(links) <= set(slugs_of(markdown))
    assert len(set(links)) == len(links)


def test_every_link_of_the_page_leads_to_an_id(written):
    _, markdown, page, _ = written
    links = [unquote(link) for link in re.findall(r'href="#([^"]*)"', page)]
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(links) == len(re.findall(r"\]\(#", markdown))
    assert set(links) <= set(ids)
    assert len(set(ids)) == len(ids)


def test_anchors_are_githubs():
    texts = ("block1.conv (conv2d)", "Loss", "loss", "a_b – c", "Loss 1", "The net's, corrected")
    assert anchors(texts) == (
        *("block1conv-conv2d", "loss", "loss-1", "a_b--c", "loss-1-1", "the-nets-corrected"),
    )


def test_a_layer_has_both_of_its_sections_and_its_formulas(written):
    explanation, markdown, page, _ = written
    titles = list(slugs_of(markdown))
    forward, backward = titles.index("forward-pass"), titles.index("backward-pass")
    assert forward < backward
    for layer in explanation.layers:
        type_ = f" ({layer.spec.type})" * (layer.key.lower() != layer.spec.type.lower())
        (slug,) = anchors([f"{layer.key}{type_}"])
        (back,) = anchors([f"Gradients of {layer.key}{type_}"])
        assert forward < titles.index(slug) < backward < titles.index(back)
    backwards = [t for t in titles if t.startswith("gradients-of")]
    assert len(backwards) - len(explanation.costs.blocks()) == len(explanation.layers)
    assert page.count("<math") > 50
    assert "merror" not in page


def test_every_substituted_formula_gives_what_stands_behind_it(written):
    _, markdown, _, _ = written
    checked = 0
    for line in re.findall(r"\$\$\n(.*) = ([\d{},]+)\n\$\$", markdown):
        expression = line[0].split(" = ")[-1]
        if re.search(r"[A-Za-z]_", expression):
            continue
        assert value_of(expression) == int(re.sub(r"[{},]", "", line[1])), line
        checked += 1
    assert checked >= 10


def value_of(latex):
    """Of a product, or of a rounded-down fraction and what is added to it."""
    text = re.sub(r"\\textcolor\{\w+\}\{(\d+)\}", r"\1", latex)
    text = re.sub(r"\\left\\lfloor \\frac\{(.*)\}\{(\d+)\} \\right\\rfloor", r"((\1) // \2)", text)
    text = text.replace(r"\times", "*").replace(r"\left", "").replace(r"\right", "")
    assert re.fullmatch(r"[\d +*/()-]+", text), text
    return eval(text)


def test_every_written_sum_adds_up_to_the_last_digit_of_what_stands_behind_it(written):
    _, markdown, _, _ = written
    sums = re.findall(r"^(?:= )?((?:\(|-?\d).*) = \*\*(.*)\*\*$", markdown, re.MULTILINE)
    assert len(sums) > 15
    for terms, total in sums:
        values = [term_of(term) for term in split_terms(terms)]
        rounding = 1e-6 * fsum(map(abs, values)) if is_cancelled(values, total) else 0.0
        slack = max(3 * last_digit(total), rounding)
        assert abs(fsum(values) - float(total)) <= slack, (terms, total)


def is_cancelled(values, total):
    return abs(float(total)) < 1e-3 * fsum(map(abs, values))


def last_digit(text):
    """What a unit of it is worth: 1e-06 of `0.123456`."""
    mantissa, _, exponent = text.partition("e")
    return 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


def split_terms(text):
    terms, depth, start = [], 0, 0
    for place, letter in enumerate(text):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if not depth and text.startswith(" + ", place):
            terms.append(text[start:place])
            start = place + 3
    return [*terms, text[start:]]


def term_of(term):
    term = term[1:-1] if term.startswith("(") else term
    if re.fullmatch(r"(… )?[\d,]+ (more )?terms (on padding: 0|that are 0)", term):
        return 0.0
    rest = re.fullmatch(r"… [\d,]+ more terms(, [\d,]+ of them 0,)? that add up to (.*)", term)
    if rest:
        return float(rest[2])
    product = 1.0
    for factor in term.split(" × "):
        product *= 0.0 if factor == "pad" else number_of(factor)
    return product


def number_of(text):
    """Of a number, or of `1/√(0.15 + 10^(−5))` and the like."""
    signs = {"√": "sqrt", "e^": "exp", "^": "**", "−": "-", "·": "*", "½": "0.5"}
    for old, new in signs.items():
        text = text.replace(old, new)
    assert re.fullmatch(r"(sqrt|exp|ln|[\d.e() +*/-])+", text), text
    return float(eval(text, {"sqrt": sqrt, "exp": exp, "ln": log}))


def test_a_table_has_as_many_cells_in_every_row(written):
    _, markdown, _, _ = written
    for table in re.findall(r"(?:^\|.*\|\n)+", markdown, re.MULTILINE):
        counts = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(counts) == 1, table


def test_the_page_and_the_drawing_hold_nothing_from_outside_as_markup(written):
    _, markdown, page, drawing = written
    assert "<script" not in page + drawing + markdown
    assert "http" not in page.replace("http-equiv", "")
    assert 'style="' not in page
    assert len(page) < 2_000_000
    ElementTree.fromstring(drawing)
    for formula in set(re.findall(r"<math.*?</math>", page)):
        ElementTree.fromstring(formula)


def test_tables_of_the_walkthrough_stand_with_its_network_only(written):
    explanation, markdown, _, _ = written
    audit = explanation.audit
    if explanation.network_name != "CifarCNN":
        assert audit is None
        assert "walkthrough" not in markdown
        return
    assert audit is not None
    section = markdown[markdown.index("\n### Corrected:") :]
    tables = section[: section.index("### Corrected: figures")]
    wrong = [cell for cell in audit.cells if cell.place == "table" and cell.verdict == "wrong"]
    assert tables.count("~~") == 2 * len(wrong) > 0
    for cell in wrong:
        assert f"~~{cell.printed}~~ **{cell.right}**" in tables
    assert section.count("**Right:**") == len(audit.findings)


def test_another_batch_or_width_has_no_tables_of_the_walkthrough():
    for explanation in (
        explained(CifarCNN(), (2, 3, 32, 32)),
        explained(CifarCNN(channels=(4, 64, 128)), (32, 3, 32, 32), layer="fc"),
    ):
        assert explanation.audit is None


def test_a_type_without_explanation_is_named_and_the_rest_is_there(tmp_path):
    network = nn.Sequential(nn.Conv2d(1, 2, 3), Unknown(), nn.Flatten(), nn.Linear(32, 2))
    explanation = explained(network, (1, 1, 6, 6))
    write_document(tmp_path, explanation)
    markdown = (tmp_path / "explain.md").read_text("utf-8")
    assert explanation.refused_types == ("sin",)
    assert "> Its values are not explained: " in markdown
    assert "at least" in markdown
    assert markdown.count("**One value**") == 3


def test_padding_is_shown_as_padding(tmp_path):
    explanation = explained(TinyCNN(), (1, 1, 8, 8), layer="conv1", position=(0, 0, 0, 0))
    write_document(tmp_path, explanation)
    markdown = (tmp_path / "explain.md").read_text("utf-8")
    assert "10 terms $x \\cdot w$ and $b$, 5 of them on padding:" in markdown
    assert "| -1 | pad | pad | pad |" in markdown
    assert "(4 terms on padding: 0)" in markdown
    assert markdown.count("(pad × ") == 1
    assert "values of conv1 only" in markdown


def test_long_sums_are_folded_with_their_count_and_their_rest():
    explanation = explained(CifarCNN(), (2, 3, 32, 32), layer="block1.bn")
    value = explanation.layer("block1.bn").output_values[0]
    text = to_markdown(Document("", tuple(value_blocks(value))))
    assert value.num_terms == 2 * 32 * 32
    assert "is the sum of 2,048 terms" in text
    rest = float(re.search(r"… 2,040 more terms that add up to (-?[\d.e-]+)\)", text)[1])
    assert rest == pytest.approx(fsum(value.products[8:]), abs=1e-6)


def test_text_from_outside_is_text_in_every_format():
    evil = f"{EVIL} ![x](http://e/f.png) [y](javascript:z) **b** `c` $d$ a|b"
    document = Document(EVIL, (Paragraph(evil), Paragraph(markup("`` a`b ``"))))
    page = to_page(document)
    assert EVIL not in page
    assert not re.search("<img|<strong|<math|href=.javascript", page)
    assert "<code>a`b</code>" in page
    html = MarkdownIt("commonmark", {"html": True}).render(to_markdown(document))
    assert EVIL not in html
    assert not re.search("<img|<strong|<a |\\$d\\$</", html)
    assert html.count("<code>") == 1


def test_of_many_classes_the_first_and_the_target_are_shown_and_the_others_counted(tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 50))
    explanation = explained(network, (1, 1, 2, 2), target=40)
    write_document(tmp_path, explanation)
    markdown = (tmp_path / "explain.md").read_text("utf-8")
    shown = re.findall(r"\*\*`dL/dy\[0,(\d+)\]`", markdown)
    assert shown == [*map(str, range(12)), "40"]
    hidden = int(re.search(r"… (\d+) more values, of other classes", markdown)[1])
    assert hidden + markdown.count("`p[0,") + len(shown) == 2 * 50


def test_the_features_of_the_first_linear_layer_are_derived(written):
    explanation, markdown, _, _ = written
    heading = "### Into the first fully connected layer"
    assert (heading in markdown) == any(layer.spec.type == "Linear" for layer in explanation.layers)
    if explanation.network_name == "SimpleCNN":
        assert (
            re.sub(r"\\textcolor\{\w+\}\{(\d+)\}", r"\1", markdown).count(
                r"$2 \times 2 \times 2 = 8$"
            )
            == 1
        )


def test_findings_have_both_of_their_figures():
    finding = Finding(
        "A title",
        "Of `a`.",
        (VariantFigure("a|b", "B", 4096, 4096), VariantFigure("share", "%", 0.012, None)),
    )
    text = to_markdown(Document("", tuple(analysis_section((finding,)))))
    assert r"| a\|b | B | 4,096 B (4.00 KiB) | 4,096 B (4.00 KiB) |" in text
    assert "| share | % | 0.012 | not run |" in text
    assert list(analysis_section(())) == []


def test_the_network_and_its_variants_are_one_table():
    own = tuple(VariantFigure(name, "B", 2048, 2048) for name in COLUMNS)
    its = tuple(VariantFigure(name, "B", 6143, 6144) for name in COLUMNS)
    ratios = tuple(figure.over(base) for figure, base in zip(its, own, strict=True))
    other = Finding("Other", "Does not apply: it is <flat>.")
    findings = (Finding("Own", "", own), Finding("Wide", "", its + ratios), other)
    text = to_markdown(Document("", tuple(analysis_section(findings))))
    table = text[: text.index("### Own")]
    assert f"| Own |{' 2.00 KiB |' * len(COLUMNS)}" in table
    assert f"| Wide |{' 6.00 KiB, 2.9995× |' * len(COLUMNS)}" in table
    assert "Other" not in table
    assert f"{2 * len(COLUMNS)} figures of the Analysis were measured, {len(COLUMNS)} of" in table
