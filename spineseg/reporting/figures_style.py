"""How figures look and how they are written: PDF with embedded fonts and PNG, and across them what they are not."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers tell apart; yellow is too light for lines.
COLORS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS: Final = "osD^vPX"
WIDTH_IN: Final = 7.0
_STYLE: Final[dict[Any, Any]] = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    # TrueType, so that the text of a PDF can be searched and edited, and journals take it.
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
}
# Bars of more models than there are colours.
HATCHES: Final = ("", "///", "...", "xx", "ooo")


@contextmanager
def figure(width: float = WIDTH_IN, height: float = 3.2) -> Iterator["Figure"]:
    """A figure in the report's style, in inches; no window system and no global state is touched."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def save(drawn: "Figure", folder: Path, name: str, warnings: Sequence[str] = ()) -> Path:
    """Write a figure as PDF and PNG, atomically.

    Args:
        drawn: the figure.
        folder: made if missing.
        name: of the files.
        warnings: what it must not be taken for (``warnings_of``): stands above, the first word of the first across.

    Returns:
        The PNG file.
    """
    if warnings:
        # The line above gets room of its own.
        height = float(drawn.get_size_inches()[1])
        drawn.set_layout_engine("constrained", rect=(0, 0, 1, 1 - 0.16 / height))
        across: dict[str, Any] = {
            "fontsize": 44,
            "color": "0.5",
            "alpha": 0.16,
            "ha": "center",
            "va": "center",
            "rotation": 20,
        }
        drawn.text(0.5, 0.5, warnings[0].split()[0], **across)
        drawn.text(0.998, 0.998, "; ".join(warnings), fontsize=7, color="#B00020", ha="right", va="top")
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in (".pdf", ".png"):
        partial = folder / f".partial-{name}{suffix}"
        # Without a date two reports of the same runs are the same files.
        drawn.savefig(partial, metadata={"CreationDate": None} if suffix == ".pdf" else None)
        partial.replace(folder / f"{name}{suffix}")
    return folder / f"{name}.png"


def plain_log(axis: "Axis") -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5, written as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def style_of(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and line of each model, the same in all figures of a report.

    >>> style_of(["a", "b"])["b"]
    {'color': '#D55E00', 'marker': 's', 'linestyle': '-'}
    """
    lines = ("-", "--", ":", "-.")
    return {
        name: {
            "color": COLORS[i % len(COLORS)],
            # Another one in each round of the colours, so that points without a line differ, too.
            "marker": MARKERS[(i + i // len(COLORS)) % len(MARKERS)],
            "linestyle": lines[i // len(COLORS) % len(lines)],
        }
        for i, name in enumerate(names)
    }
