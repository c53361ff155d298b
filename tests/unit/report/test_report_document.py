"""One document, and what each writer makes of it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import layerscope.report
from layerscope.report.document import (
    BLANK,
    Beside,
    Break,
    Bullets,
    Code,
    Column,
    Contents,
    Document,
    Facts,
    Figure,
    Folded,
    Formula,
    Heading,
    Math,
    Paragraph,
    Shown,
    Space,
    Strong,
    Struck,
    Sum,
    Table,
    cell_text,
    columns_in,
    markup,
)
from layerscope.report.html import fragment, to_page
from layerscope.report.markdown import to_markdown

TABLE = Table(
    (
        Column("layer", "layer"),
        Column("bytes", "size", "bytes"),
        Column("flops", "FLOPs", "flops", brief=True, rank=2),
        Column("share", "share", "share", rank=1),
    ),
    (
        ("a_layer", 2**22, 56_623_104, 0.451),
        ("another", None, Sum(1_500_000, lower_bound=True), BLANK),
    ),
    total=("total", 2**22, 58_123_104, 1.0),
    title="costs",
    note="of one step",
    flagged=frozenset({1}),
)
DOCUMENT = Document(
    "window",
    (
        Heading(1, "Title"),
        Contents("Contents", 2),
        Heading(2, "First"),
        Paragraph(("see ", Code("x"), ", ", Math(r"2 \times k_{\text{h}}"), Break(), Strong("so"))),
        Paragraph("holds", "good"),
        Space(),
        Bullets(("one", (Struck("2"), " ", Strong("3")))),
        Facts((("live peak", "4 B"),)),
        Formula(r"\frac{a}{b}"),
        TABLE,
        Heading(2, "Second"),
        Beside((Table(columns_in("number", "g"), (("1",),)),) * 2),
        Figure("A drawing", "<svg></svg>", "a.svg"),
        Folded("more", (Paragraph("inside"),)),
        Folded("tables", (Paragraph("within"),), level=3),
    ),
)

MARKDOWN = """# Title

## Contents

- [First](#first)
- [Second](#second)

## First

see `x`, $2 \\times k_{\\text{h}}$<br>
**so**

**holds**

- one
- ~~2~~ **3**

- live peak: 4 B

$$
\\frac{a}{b}
$$

**costs**

| layer | size | FLOPs | share |
| :--- | ---: | ---: | ---: |
| a_layer | 4,194,304 B (4.00 MiB) | 56.6 M | 45.1 % |
| **another** | **unknown** | **&gt;= 1.50 M** | **–** |
| **total** | **4,194,304 B (4.00 MiB)** | **58.1 M** | **100.0 %** |

of one step

## Second

| g |
| ---: |
| 1 |

| g |
| ---: |
| 1 |

![A drawing](a.svg)

<details><summary>more</summary>

inside

</details>

### tables

within
"""


def test_as_markdown():
    assert to_markdown(DOCUMENT) == MARKDOWN


def test_as_a_page():
    page = to_page(DOCUMENT)
    assert re.findall(r'<a href="#(\w+)">(\w+)</a>', page) == [
        ("first", "First"), ("second", "Second"),
    ]  # fmt: skip
    assert [slug for slug in ("first", "second") if f'id="{slug}"' not in page] == []
    assert '<p class="verdict holds">holds</p>' in page
    assert "<s>2</s> <strong>3</strong>" in page
    # The exact figure stands behind a short one; bytes are exact already.
    assert '<td class="number" title="56,623,104">56.6 M</td>' in page
    assert '<tr class="broken"><td>another</td>' in page
    assert page.count("<math") == 2
    assert "<details><summary>more</summary>" in page
    assert "<script" not in page
    assert "script-src" not in page


def test_a_table_with_details_sorts_by_value():
    rows = (("b", Shown("3x2", 6.0, "6 numbers")), ("a", BLANK))
    columns = (Column("layer", "layer"), Column("shape", "shape"))
    details = ((Formula("x"),), ())
    page = to_page(Document("", (Table(columns, rows, key="layer", details=details),)))
    assert '<td data-sort="6.0" title="6 numbers">3x2</td>' in page
    assert '<td data-sort="">–</td>' in page
    assert 'id="layer-1"' in page
    assert page.count("<script>") == 1


def test_a_notebook_needs_no_page():
    html = fragment((Paragraph("<b>", "bad"),))
    assert html.startswith('<div class="layerscope"><style>')
    assert '<p class="verdict broken">&lt;b&gt;</p>' in html


@pytest.mark.parametrize(
    ("unit", "value", "exact", "short"),
    [
        ("count", 94_986, "94,986", "94,986"),
        ("count", 23_872_768, "23,872,768", "23.9 M"),
        ("flops", 94_986, "94,986", "95.0 k"),
        ("bytes", 2048, "2,048 B (2.00 KiB)", "2.00 KiB"),
        ("signed", 4, "+4", "+4"),
        ("seconds", 0.00123, "1.23 ms", "1.23 ms"),
        ("percent", 0.8365, "83.65 %", "83.65 %"),
        ("flop_rate", 71.9e9, "71.9 GFLOP/s", "71.9 GFLOP/s"),
        ("shapes", ((2, 3), (2, 3)), "2 × (2, 3)", "2 × (2, 3)"),
    ],
)
def test_a_figure_is_written_by_its_unit(unit, value, exact, short):
    column = Column("", "", unit)
    assert (cell_text(value, column), cell_text(value, column, brief=True)) == (exact, short)


def test_our_own_sentences_are_marked():
    assert markup("plain") == "plain"
    assert markup("a `b` $c$ **d `e`** ~~f~~") == (
        *("a ", Code("b"), " ", Math("c"), " ", Strong(("d ", Code("e"))), " ", Struck("f")),
    )
    assert markup("`` a`b ``") == (Code("a`b"),)


def test_a_terminals_first_line_waits_for_nothing_large():
    code = (
        "import sys, layerscope.report.terminal, layerscope.report.sweep;"
        "print({'torch', 'sympy', 'latex2mathml', 'numpy', 'matplotlib'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_only_the_writers_know_a_format():
    folder = Path(layerscope.report.__file__).parent
    for path in (*folder.glob("profile/*.py"), *folder.glob("explain/*.py")):
        text = path.read_text()
        assert "rich" not in re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE), path.name
        assert not re.search(r'"<(table|td|tr|p|div|details)\b|---:|<br>', text), path.name
