"""Which tasks' adapters come with the demo, and where their figures are."""

from app.texts.tasks import TASKS

RESULTS = "results.json"
PROBES = "probes"
"""A folder by itself: the one around it is served, adapter by adapter."""
SHIPPED = tuple(name for name in TASKS if name != "news-topic")
