"""Which tasks' adapters come with the demo, and where their figures are."""

from app.texts.tasks import TASKS

RESULTS = "results.json"
SHIPPED = tuple(name for name in TASKS if name != "news-topic")
