"""A plot of accuracy against a figure, with every method's name in it."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from benchmarks import plots
from benchmarks.labels import placed

WIDTH, HEIGHT = 280, 420
"""Two of them stand side by side on a page, and one on a phone."""


@dataclass(frozen=True)
class Spot:
    """A method: a figure, and an accuracy with its range."""

    name: str
    x: float
    low: float
    y: float
    high: float
    color: str


@dataclass(frozen=True)
class Axis:
    """The ends of an axis, and how values become lengths on it."""

    low: float
    high: float
    length: int
    log: bool = False

    @classmethod
    def around(
        cls, values: list[float], length: int, log: bool = False
    ) -> "Axis":
        """An axis with some room around its values."""
        ends = [math.log10(v) if log else v for v in values]
        room = 0.08 * (max(ends) - min(ends) or 1.0)
        return cls(min(ends) - room, max(ends) + room, length, log)

    def pixels(self, value: float) -> float:
        """Where a value is."""
        value = math.log10(value) if self.log else value
        return (value - self.low) / (self.high - self.low) * self.length

    def value(self, pixels: float) -> float:
        """What is at a place."""
        value = self.low + pixels / self.length * (self.high - self.low)
        return 10**value if self.log else value

    @property
    def scale(self) -> Any:
        """The scale of the plot."""
        domain = [self.value(0), self.value(self.length)]
        kind = "log" if self.log else "linear"
        return alt.Scale(type=kind, domain=domain, nice=False, zero=False)


def scatter(spots: list[Spot], title: str, path: Path, *, log: bool) -> None:
    """Writes a plot of accuracy against a figure."""
    across = Axis.around([spot.x for spot in spots], WIDTH, log)
    # A run that learned nothing would press all others into a line: the lower
    # end of a range may lie below the plot.
    ends = [end for spot in spots for end in (spot.y, spot.high)]
    up = Axis.around(ends, HEIGHT)
    bottom = up.value(0)
    spots = [replace(s, low=max(s.low, bottom)) for s in spots]
    x = alt.X("x:Q", title=title, scale=across.scale)
    x = x.axis(grid=False, format="~s", tickCount=5, labelOverlap=True)
    title_of_y = "accuracy on held-out texts"
    y = alt.Y("y:Q", title=title_of_y, scale=up.scale)
    y = y.axis(format=".2f", tickCount=6)
    data = pd.DataFrame([vars(spot) for spot in spots])
    color = alt.Color("color:N", scale=None)
    base = alt.Chart(data).encode(x=x, color=color)
    low = alt.Y("low:Q", title=title_of_y, scale=up.scale)
    chart = (
        base.mark_rule(opacity=0.3).encode(y=low, y2="high:Q")
        + base.mark_point(filled=True, size=50, opacity=1).encode(y=y)
        + named(spots, across, up)
    )
    plots.save(chart.properties(width=WIDTH, height=HEIGHT), path)


def named(spots: list[Spot], across: Axis, up: Axis) -> Any:
    """The names, and lines to the points of those that stand away."""
    points = [(s.name, across.pixels(s.x), up.pixels(s.y)) for s in spots]
    size = plots.SIZE - 1
    rows = [
        {
            "text": label.text,
            "align": label.align,
            "x": across.value(label.x),
            "y": up.value(label.y),
            "x2": spot.x if label.far else across.value(label.x),
            "y2": spot.y if label.far else up.value(label.y),
            "color": spot.color,
        }
        for spot, label in zip(
            spots, placed(points, WIDTH, HEIGHT, size), strict=True
        )
    ]
    place = alt.Chart(pd.DataFrame(rows)).encode(
        x="x:Q", y="y:Q", color=alt.Color("color:N", scale=None)
    )
    layers = place.mark_rule(opacity=0.5).encode(x2="x2", y2="y2")
    for align in sorted({row["align"] for row in rows}):
        layers += (
            place.transform_filter(alt.datum.align == align)
            .mark_text(align=align, baseline="middle", fontSize=size)
            .encode(text="text:N")
        )
    return layers
