import re

from matplotlib.figure import Figure

from bdal.report.document import (
    Bullets,
    Document,
    Folded,
    Paragraph,
    Picture,
    Pictures,
    Section,
    Table,
    html,
    markdown,
)
from bdal.report.figures import COLORS, DARK, learning_curves
from bdal.report.tables import Row

EVIL = '<b onclick="x">&amp;</b>'


def drawing(tmp_path) -> str:
    rows = [Row("mc_dropout", "bald", 0, labels, 30, 0.5, 1.0, 0.4, 0.1) for labels in (20, 40)]
    (path,) = learning_curves(rows, tmp_path / "curves", ("svg",))
    return path.read_text(encoding="utf-8")


def document(svg: str) -> Document:
    picture = Picture("curves", svg, f"alt {EVIL}", f"caption {EVIL}")
    other = picture._replace(name="other")
    return Document(
        EVIL,
        [Paragraph(f"lead {EVIL}")],
        [
            Section(EVIL, [Paragraph(EVIL), Paragraph(EVIL, note=True), Bullets([EVIL, "- item"])]),
            Section(EVIL, [Table(EVIL, ["", EVIL], [[EVIL, "-1.5 [-2, +1]"], ["a-1 | b", "x-1"]], note=EVIL)], level=3),
            Section("Figures", [picture, Pictures([other], EVIL), Folded(EVIL, f"{EVIL}\n```\n````\n")]),
            Section("Matrix", [Table("m", ["beats", "a"], [["a", "0.50"], ["b", "–"]], shade=True, folded=True)]),
        ],
    )


def test_text_is_text_in_html(tmp_path):
    page = html(document(drawing(tmp_path)))
    assert "<b onclick" not in page
    assert page.count("&lt;b onclick=&#34;x&#34;&gt;&amp;amp;&lt;/b&gt;") == 21
    assert 'aria-label="alt &lt;b onclick=&#34;x&#34;&gt;' in page
    assert "<td>−1.5 [−2, +1]</td>" in page
    assert '<td class="name">a-1 | b</td>' in page
    assert "<td>x-1</td>" in page
    assert '<td class="shade" style="--s:28%">0.50</td>' in page  # 55 % of a half
    assert "<td>–</td>" in page


def test_text_is_text_in_markdown(tmp_path):
    text = markdown(document(drawing(tmp_path)))
    body, fenced = text.split("`````")[0], text.split("`````")[1]
    assert "<b" not in body
    assert fenced == f"\n{EVIL}\n```\n````\n"
    assert "![alt &lt;b onclick" in body
    assert "](figures/curves.png)" in body
    assert "- \\- item" in body
    lines = [line for line in body.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert "−1.5 [−2, +1]" in body
    assert lines[1].endswith("-: |")


def test_drawings_take_the_colors_of_the_page_and_no_id_twice(tmp_path):
    svg = drawing(tmp_path)
    page = html(document(svg))
    drawn = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawn) == 2
    for color in DARK:
        assert color not in drawn[0].lower()
        assert f"--c-{color[1:]}: {color};" in page
        assert f"--c-{color[1:]}: {DARK[color]};" in page
    assert f"var(--c-{COLORS[0][1:].lower()})" in drawn[0]
    assert "<style" not in drawn[0]
    assert "<metadata" not in drawn[0]
    ids = re.findall(r'\sid="([^"]*)"', page)
    assert len(ids) == len(set(ids)) > 20
    for target in re.findall(r'(?:href="#|url\(#)([^")]+)', page):
        assert target in ids
    inches = [float(points) / 72 for points in re.findall(r'(?:width|height)="([\d.]+)pt"', svg)[:2]]
    size = re.search(r'width="(\d+)" height="(\d+)"', drawn[0])
    assert [int(size[1]), int(size[2])] == [round(96 * side) for side in inches]


def test_a_figure_of_anybody(tmp_path):
    """Nothing depends on how our figures look."""
    figure = Figure()
    figure.subplots().plot([0, 1])
    figure.savefig(tmp_path / "any.svg")
    svg = (tmp_path / "any.svg").read_text(encoding="utf-8")
    page = html(Document("t", [], [Section("s", [Picture("any", svg, "alt", "caption")])]))
    assert page.count("<svg") == 1
