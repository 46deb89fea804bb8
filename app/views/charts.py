"""The demo's charts, as Altair makes them."""

import re
from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd

from app.serve.job import Point
from app.serve.messages import visible
from app.views.picture import Cell

INK = "#718096"
"""Of numbers in charts: to be read on a light and on a dark page."""


def shares(labels: Sequence[str], values: np.ndarray) -> alt.LayerChart:
    """Probabilities as horizontal bars with their number."""
    table = pd.DataFrame({"label": map(visible, labels), "share": values})
    base = alt.Chart(table).encode(
        y=alt.Y("label:N", sort=None, title=None, axis=alt.Axis(ticks=False)),
        x=alt.X(
            "share:Q",
            title=None,
            scale=alt.Scale(domain=[0, 1.25]),
            axis=None,
        ),
    )
    bars = base.mark_bar(cornerRadiusEnd=3)
    numbers = base.mark_text(align="left", dx=5, color=INK).encode(
        text=alt.Text("share:Q", format=".1%")
    )
    height = 34 * len(labels) + 10
    return (bars + numbers).properties(height=height)


def curves(points: Sequence[Point], quantity: str) -> alt.LayerChart:
    """Loss or accuracy by training step; validation as dots."""
    table = pd.DataFrame(
        {
            "step": [point.step for point in points],
            quantity: [getattr(point, quantity) for point in points],
            "texts": [point.part for point in points],
        }
    )
    base = alt.Chart(table).encode(
        x=alt.X("step:Q", title="step", axis=alt.Axis(tickMinStep=1)),
        y=alt.Y(f"{quantity}:Q", title=quantity, scale=alt.Scale(zero=False)),
        color=alt.Color(
            "texts:N",
            title=None,
            scale=alt.Scale(domain=["training", "validation"]),
            legend=alt.Legend(orient="top"),
        ),
    )
    line = base.mark_line().transform_filter("datum.texts == 'training'")
    dots = base.mark_point(filled=True, size=90).transform_filter(
        "datum.texts == 'validation'"
    )
    return (line + dots).properties(height=220)


def confusion(counts: np.ndarray, labels: Sequence[str]) -> alt.LayerChart:
    """How many texts of each label were given which."""
    table = pd.DataFrame(
        [
            {"true": true, "given": given, "texts": int(counts[i, j])}
            for i, true in enumerate(map(visible, labels))
            for j, given in enumerate(map(visible, labels))
        ]
    )
    table["share"] = table["texts"] / table["texts"].clip(1).max()
    base = alt.Chart(table).encode(
        x=alt.X(
            "given:N",
            sort=None,
            title="label given",
            axis=alt.Axis(labelAngle=0),
        ),
        y=alt.Y("true:N", sort=None, title="true label"),
    )
    cells = base.mark_rect().encode(
        color=alt.Color("texts:Q", scale=alt.Scale(scheme="blues"), legend=None)
    )
    numbers = base.mark_text(fontSize=14).encode(
        text="texts:Q",
        color=alt.condition(
            "datum.share > 0.5", alt.value("white"), alt.value("#1c2433")
        ),
    )
    return (cells + numbers).properties(height=90 + 46 * len(labels))


def updates(cells: Sequence[Cell]) -> alt.LayerChart:
    """The norm of each layer's update; an outline where nothing sits."""
    table = pd.DataFrame([vars(cell) for cell in cells])
    for column in ("block", "layer"):
        table[column] = table[column].map(short_name)
    base = alt.Chart(table).encode(
        x=alt.X(
            "layer:N",
            sort=None,
            title=None,
            axis=alt.Axis(labelAngle=-40, labelLimit=200, labelOverlap=False),
        ),
        y=alt.Y("block:N", sort=None, title=None),
        tooltip=[
            "block",
            "layer",
            "method",
            "size",
            alt.Tooltip("norm:Q", format=".3f", title="norm of the update"),
        ],
    )
    empty = base.mark_rect(fillOpacity=0.0, stroke="#8a94a6", strokeOpacity=0.5)
    filled = (
        base.transform_filter("isValid(datum.norm)")
        .mark_rect()
        .encode(
            color=alt.Color(
                "norm:Q",
                title="norm",
                scale=alt.Scale(scheme="blues", domainMin=0),
            )
        )
    )
    blocks = table["block"].nunique()
    return (empty + filled).properties(height=130 + 28 * blocks)


def short_name(name: str) -> str:
    """A layer's name as the axis has room for: "block 3", "query"."""
    name = re.sub(r"^transformer_layer_(\d+)$", r"block \1", name)
    return name.removesuffix("_dense").replace("_", " ")


def difference(value: float) -> str:
    """A largest difference: "0" where there is none, else "2.1e-06"."""
    return f"{value:.1e}" if value else "0"


def memory(bank_bytes: int, copies_bytes: int, count: int) -> alt.LayerChart:
    """One base with its adapters against a model for each task."""
    table = pd.DataFrame(
        {
            "way": [
                f"one base + {count} adapters",
                f"{count} fine-tuned models",
            ],
            "MB": [bank_bytes / 1e6, copies_bytes / 1e6],
        }
    )
    most = float(table["MB"].max())
    base = alt.Chart(table).encode(
        y=alt.Y(
            "way:N",
            sort=None,
            title=None,
            axis=alt.Axis(labelLimit=220, ticks=False),
        ),
        x=alt.X(
            "MB:Q",
            axis=None,
            scale=alt.Scale(domain=[0, 1.25 * most]),
        ),
    )
    numbers = base.mark_text(align="left", dx=5, color=INK).encode(
        text=alt.Text("MB:Q", format=",.0f")
    )
    unit = alt.Chart(table).mark_bar(cornerRadiusEnd=3)
    bars = unit.encode(y=base.encoding.y, x=base.encoding.x)
    return (bars + numbers).properties(height=90)
