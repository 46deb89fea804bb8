"""The page's plots, as SVG that reads on light and on dark ground."""

from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

GREY = "#808080"
OURS, FULL, BOTTLENECKS = "#6676cf", "#ef6c00", "#0c8f81"
SIZE = 13
"""Of letters, in pixels; a phone shows the widest plots at 0.8 of that."""


NAMES = {"activation floor": "the floor", "frozen and head": "the head alone"}
"""Of the sides of a step, where the JSON has others."""


def save(chart: Any, path: Path) -> None:
    """Writes a chart with grey text on no background."""
    themed = chart.configure(background="transparent").configure_view(
        strokeOpacity=0
    )
    themed = themed.configure_axis(
        labelColor=GREY,
        titleColor=GREY,
        gridColor=GREY,
        gridOpacity=0.2,
        domainColor=GREY,
        tickColor=GREY,
        labelFontSize=SIZE - 1,
        titleFontSize=SIZE,
        titleFontWeight="normal",
    )
    themed = themed.configure_legend(
        labelColor=GREY, titleColor=GREY, labelFontSize=SIZE - 1
    )
    themed.configure_title(color=GREY).save(str(path))


def with_spread(data: pd.DataFrame, x: Any, y: Any, color: Any) -> Any:
    """A line through medians, in a band between quartiles."""
    base = alt.Chart(data).encode(x=x, color=color)
    band = base.mark_area(opacity=0.2).encode(y=alt.Y("low:Q"), y2="high:Q")
    return band + base.mark_line(point=True).encode(y=y)


def scaling(result: dict[str, Any], path: Path) -> list[Path]:
    """Milliseconds of a step, a plot for each setting that is varied."""
    written = []
    for name, points in result["sweeps"].items():
        data = pd.DataFrame(
            [
                {
                    "value": int(value),
                    "side": side,
                    "low": row["milliseconds"][0],
                    "median": row["milliseconds"][1],
                    "high": row["milliseconds"][2],
                }
                for value, sides in points.items()
                for side, row in sides.items()
            ]
        )
        scale = alt.Scale(type="log", base=2, nice=False)
        x = alt.X("value:Q", title=name, scale=scale)
        x = x.axis(values=sorted(set(data["value"])), grid=False)
        y = alt.Y("median:Q", title="ms for a step").axis(tickCount=5)
        color = alt.Color(
            "side:N",
            title=None,
            scale=alt.Scale(
                domain=["keras_lora", "full fine-tuning"], range=[OURS, FULL]
            ),
            legend=alt.Legend(orient="bottom", columns=1, symbolOpacity=1),
        )
        chart = with_spread(data, x, y, color)
        written.append(path.with_stem(f"{path.stem}-{name}"))
        save(chart.properties(width=160, height=170), written[-1])
    return written


def serving(result: dict[str, Any], path: Path) -> None:
    """A mixed batch's time over the base's, against the adapters."""
    data = pd.DataFrame(
        [
            {
                "n": int(n),
                "low": row["mixed_over_base"][0],
                "median": row["mixed_over_base"][1],
                "high": row["mixed_over_base"][2],
            }
            for n, row in result["adapters"].items()
        ]
    )
    scale = alt.Scale(type="log", base=2, nice=False)
    x = alt.X("n:Q", title="adapters in the bank", scale=scale)
    x = x.axis(values=sorted(data["n"]), grid=False)
    y = alt.Y("median:Q", title="times the base's batch")
    y = y.scale(domainMin=0).axis(tickCount=6)
    chart = with_spread(data, x, y, alt.value(OURS))
    bare = alt.Chart(pd.DataFrame([{"median": 1, "text": "the base alone"}]))
    line = bare.mark_rule(color=GREY, strokeDash=[4, 4]).encode(y=y)
    name = bare.mark_text(
        align="left", baseline="top", dx=4, dy=5, color=GREY, fontSize=SIZE - 1
    ).encode(y=y, x=alt.value(0), text="text:N")
    layers = line + name + chart
    save(layers.properties(width=380, height=210), path)


def step(sides: dict[str, Any], path: Path) -> None:
    """Milliseconds of a step, a bar for each side, with quartiles."""
    data = pd.DataFrame(
        [
            {
                "side": NAMES.get(side, side),
                "low": row["milliseconds"][0],
                "median": row["milliseconds"][1],
                "high": row["milliseconds"][2],
                "text": f"{row['milliseconds'][1]:,.0f}",
                "color": OURS if side == "keras_lora" else GREY,
            }
            for side, row in sides.items()
        ]
    )
    y = alt.Y("side:N", title=None, sort=None)
    y = y.axis(labelLimit=200, ticks=False, domain=False)
    x = alt.X("median:Q", title="ms for a step").axis(tickCount=5)
    base = alt.Chart(data).encode(y=y)
    bars = base.mark_bar(height=18, opacity=0.6).encode(
        x=x, color=alt.Color("color:N", scale=None)
    )
    spreads = base.mark_rule(color=GREY, strokeWidth=2).encode(
        x=alt.X("low:Q", title="ms for a step"), x2="high:Q"
    )
    texts = base.mark_text(
        align="left", dx=6, color=GREY, fontSize=SIZE - 1
    ).encode(x=alt.X("high:Q", title="ms for a step"), text="text:N")
    layers = bars + spreads + texts
    save(layers.properties(width=270, height=32 * len(data)), path)
