"""The page's plots, as SVG that reads on light and on dark ground."""

from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

GREY = "#808080"
OURS, FULL = "#5c6bc0", "#ef6c00"


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
    )
    themed = themed.configure_legend(labelColor=GREY, titleColor=GREY)
    themed.configure_title(color=GREY).save(str(path))


def with_spread(data: pd.DataFrame, x: Any, y: Any, color: Any) -> Any:
    """A line through medians, in a band between quartiles."""
    base = alt.Chart(data).encode(x=x, color=color)
    band = base.mark_area(opacity=0.2).encode(y=alt.Y("low:Q"), y2="high:Q")
    return band + base.mark_line(point=True).encode(y=y)


def scaling(result: dict[str, Any], path: Path) -> None:
    """Milliseconds a step, one panel for each setting varied."""
    panels = []
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
        y = alt.Y("median:Q", title="ms a step")
        color = alt.Color(
            "side:N",
            title=None,
            scale=alt.Scale(
                domain=["keras_lora", "full fine-tuning"], range=[OURS, FULL]
            ),
            legend=alt.Legend(orient="bottom"),
        )
        chart = with_spread(data, x, y, color)
        panels.append(chart.properties(width=190, height=180))
    save(alt.hconcat(*panels), path)


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
    x = alt.X("n:Q", title="adapters", scale=scale)
    x = x.axis(values=sorted(data["n"]), grid=False)
    y = alt.Y("median:Q", title="times the base's batch")
    y = y.scale(domainMin=0)
    chart = with_spread(data, x, y, alt.value(OURS))
    save(chart.properties(width=480, height=200), path)
