"""Where the labels of a plot's points go, so that none covers another."""

import math
import random
from dataclasses import dataclass

ANGLES = (0, 180, 90, 270, 45, 315, 135, 225)
DISTANCES = (8, 15, 24, 34, 46, 60)
NEAR = 15
"""Up to here a label needs no line to its point, in pixels."""
TRIES = 60


@dataclass(frozen=True)
class Label:
    """A text beside a point, in pixels from the left and from the bottom.

    Attributes:
        align: Of the text at `x`: `"left"`, `"right"` or `"center"`.
        far: Whether a line should lead to the point.
    """

    text: str
    x: float
    y: float
    align: str
    far: bool


Box = tuple[float, float, float, float]
Point = tuple[str, float, float]


def placed(
    points: list[Point], width: float, height: float, size: float
) -> list[Label]:
    """A label for each point, in the order of the points.

    Each takes the place that costs least beside those before it; of some
    random orders the best is taken.

    Args:
        points: Texts with their places in pixels, from the lower left.
        width: Of the plot.
        height: Of the plot.
        size: Of the letters.
    """
    chance, best, least = random.Random(0), [], math.inf
    order = list(range(len(points)))
    for _ in range(TRIES):
        found, cost = in_order(points, order, (width, height), size)
        if cost < least:
            best, least = [found[n] for n in range(len(points))], cost
        chance.shuffle(order)
    return best


def in_order(
    points: list[Point],
    order: list[int],
    frame: tuple[float, float],
    size: float,
) -> tuple[dict[int, Label], float]:
    """The labels that come of one order, and what they cost."""
    taken = [(x - 5, y - 5, x + 5, y + 5) for _, x, y in points]
    found, total = {}, 0.0
    for number in order:
        cost, label, box = min(
            (
                (cost_of(box, label, taken, number, frame, points), label, box)
                for label, box in candidates(points[number], size)
            ),
            key=lambda candidate: candidate[0],
        )
        found[number] = label
        taken.append(box)
        total += cost
    return found, total


def candidates(point: Point, size: float) -> list[tuple[Label, Box]]:
    """The places around a point, each with the box of its text."""
    text, x, y = point
    wide, high = 0.6 * size * len(text), 1.15 * size
    found = []
    for distance in DISTANCES:
        for angle in ANGLES:
            across = distance * math.cos(math.radians(angle))
            up = distance * math.sin(math.radians(angle))
            align = "center"
            left = x + across - wide / 2
            if abs(across) > 1:
                align = "left" if across > 0 else "right"
                left = x + across - (wide if across < 0 else 0)
            bottom = y + up - high / 2
            box = (left, bottom, left + wide, bottom + high)
            label = Label(text, x + across, y + up, align, distance > NEAR)
            found.append((label, box))
    return found


def cost_of(
    box: Box,
    label: Label,
    taken: list[Box],
    own: int,
    frame: tuple[float, float],
    points: list[Point],
) -> float:
    """What a place costs: its distance, and much for all that it covers."""
    left, bottom, right, top = box
    outside = max(0, -left, -bottom, right - frame[0], top - frame[1])
    covered = sum(
        min(right, other[2]) > max(left, other[0])
        and min(top, other[3]) > max(bottom, other[1])
        for number, other in enumerate(taken)
        if number != own
    )
    _, x, y = points[own]
    distance = math.hypot(label.x - x, label.y - y)
    return distance + 1000 * covered + 100 * outside
