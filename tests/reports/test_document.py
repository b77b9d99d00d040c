"""The forms of a report's content."""

from morphojax.reports.document import Block, Section, to_html, to_markdown

CONTENT = [Section("a < b", [Block("panels", "two & three", panels=("<svg>1</svg>", "<svg>2</svg>"))])]


def test_panels_stand_in_a_row_of_one_figure():
    html = to_html("title", CONTENT)
    assert html.count("<figure") == 1 and '<div class="panels"><svg>1</svg><svg>2</svg></div>' in html
    assert "<figcaption>two &amp; three</figcaption>" in html and "<h2>a &lt; b</h2>" in html


def test_every_panel_is_a_file_of_the_markdown(tmp_path):
    text = to_markdown("title", CONTENT, tmp_path / "figures")
    assert text.count("![two & three](figures/figure_") == 2
    assert [(tmp_path / "figures" / f"figure_{n}.svg").read_text() for n in (1, 2)] == ["<svg>1</svg>", "<svg>2</svg>"]
