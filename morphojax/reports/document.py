"""A report's content, and its forms as Markdown and as one HTML file."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jinja2

from morphojax.data.store.records import write_atomically

TEMPLATE = Path(__file__).with_name("report.html.j2")


@dataclasses.dataclass(frozen=True)
class Block:
    """kind: text, list, table, figure, panels or code; the fields that belong to it are set.

    panels: figures as wide as a phone, of which a page sets several in a row; `text` is the caption
      of all.
    """

    kind: str
    text: str = ""
    lines: Sequence[str] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    svg: str = ""
    panels: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Section:
    heading: str
    blocks: Sequence[Block]


def to_html(title: str, sections: Sequence[Section]) -> str:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(TEMPLATE.read_text()).render(title=title, sections=sections)


def to_markdown(title: str, sections: Sequence[Section], figures: Path) -> str:
    """figures: a folder, to which the figures are written; the text names them relative to its
    parent.
    """
    lines = [f"# {title}", ""]
    number = 0
    for section in sections:
        lines += [f"## {section.heading}", ""]
        for block in section.blocks:
            if block.kind in ("figure", "panels"):
                for svg in block.panels or (block.svg,):
                    number += 1
                    figures.mkdir(parents=True, exist_ok=True)
                    path = figures / f"figure_{number}.svg"
                    write_atomically(path, svg.encode())
                    lines += [f"![{block.text}]({figures.name}/{path.name})", ""]
            else:
                lines += [*_markdown(block), ""]
    return "\n".join(lines)


def _markdown(block: Block) -> list[str]:
    if block.kind == "list":
        return [f"- {_plain(line)}" for line in block.lines]
    if block.kind == "table":
        rows = [f"| {' | '.join(_plain(cell) for cell in row)} |" for row in block.rows]
        return [f"| {' | '.join(block.head)} |", "|" + " --- |" * len(block.head), *rows]
    if block.kind == "code":
        return ["```", block.text, "```"]
    return [_plain(block.text)]


def _plain(text: str) -> str:
    return text.replace("<", "&lt;").replace("|", "\\|")
