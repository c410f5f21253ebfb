"""How figures of results are drawn: inline SVG in a wide and a narrow form, with a text alternative and the data as a table.

Text stays text. Ink takes the colour of the page's text, and every colour is a variable of the style sheet, so that figures are legible in
light, in dark and on paper. A figure needs no script, no network and no file.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.typing import RcKeyType

# A palette for the colour-blind too (Okabe and Ito), by variables of style.css: each has another value in dark.
STUDENT, DENSE, POOL, CENTRAL, TEACHER, OTHER, MORE = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#8a8f98",
    "#cc79a7",
    "#56b4e9",
)
INK, ON_STUDENT = "#123456", "#fefefe"
VARIABLES = {
    STUDENT: "--student",
    DENSE: "--dense",
    POOL: "--pool",
    CENTRAL: "--central",
    TEACHER: "--teacher",
    OTHER: "--other",
    MORE: "--more",
    ON_STUDENT: "--on-student",
}
# Several lines of one kind, in this order; those without colour tell them apart by their marks.
LINES, MARKS = (STUDENT, CENTRAL, POOL, OTHER, DENSE, MORE, TEACHER, INK), ("o", "s", "^", "D", "v", "P", "X", "*")
# Inches, at 72 points each. On a telephone of 400 px, the narrow form is shown about as large as it is drawn.
WIDE, NARROW = 7.6, 3.9
# Pixels of the page for each point of a figure in its largest form.
LARGEST = 1.35
STYLE: dict[RcKeyType, object] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "limbeck",
    # Names of sites and classes may contain a dollar sign, which is no formula.
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


@dataclass(frozen=True, slots=True)
class Table:
    """The data of a figure as text, for those who cannot see it or want the numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure of a page.

    - title: what it shows, in a few words.
    - alternative: the title and what there is to see, for readers who do not see it.
    - wide, narrow: SVG.
    - data: what is drawn.
    """

    title: str
    alternative: str
    wide: str
    narrow: str
    data: Table


# Draws on axes; the second argument says whether they are narrow.
Draw = Callable[[Axes, bool], None]


def figure(
    title: str,
    says: str,
    draw: Draw,
    data: Table,
    *,
    height: float,
    width: float = WIDE,
    narrow_height: float | None = None,
) -> Figure:
    """Draw a figure in both forms.

    - says: what there is to see, in whole sentences.
    - height, width, narrow_height: in inches; the narrow form is as high as the wide one if nothing else is said.
    """
    alternative = f"{title}. {says}"
    return Figure(
        title=title,
        alternative=alternative,
        wide=_svg(f"wide {title}", alternative, width, height, lambda axes: draw(axes, False)),
        narrow=_svg(
            f"narrow {title}", alternative, min(width, NARROW), narrow_height or height, lambda axes: draw(axes, True)
        ),
        data=data,
    )


def _svg(name: str, alternative: str, width: float, height: float, draw: Callable[[Axes], None]) -> str:
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(width, height), layout="constrained")
        canvas.patch.set_alpha(0)
        axes = canvas.add_subplot()
        axes.patch.set_alpha(0)
        draw(axes)
        buffer = io.StringIO()
        canvas.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    svg = svg.replace(INK, "currentColor")
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    # Ids are unique within one figure only; a page holds many.
    prefix = re.sub(r"\W+", "-", name.lower())[:48]
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'(xlink:href="|href="|url\()#([^")]+)', rf"\1#{prefix}-\2", svg)
    width_pt = re.search(r'width="([\d.]+)pt"', svg)
    svg = re.sub(r'(<svg[^>]*?) height="[\d.]+pt"', r"\1", svg, count=1)
    most = f"{float(width_pt.group(1)) * LARGEST:.0f}px" if width_pt else "100%"
    return re.sub(
        r'(<svg[^>]*?) width="[\d.]+pt"',
        lambda start: (
            f'{start.group(1)} width="100%" style="max-width:{most}" role="img" aria-label="{_attribute(alternative)}"'
        ),
        svg,
        count=1,
    )


def _attribute(text: str) -> str:
    """A text within an attribute: names of sites and classes are anybody's."""
    for character, entity in {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}.items():
        text = text.replace(character, entity)
    return text


def legend(axes: Axes, columns: int, *, narrow: bool) -> None:
    """A legend above the axes, outside of what is drawn; in the narrow form one entry a line if they are long."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        most = max(1, columns // 2) if narrow else columns
        axes.legend(handles, labels, loc="lower left", bbox_to_anchor=(0, 1), ncols=most, borderaxespad=0.2)


def rows_of(values: Sequence[Sequence[object]]) -> tuple[tuple[str, ...], ...]:
    """Rows of a table as text; None is a dash."""
    return tuple(tuple("–" if value is None else str(value) for value in row) for row in values)
