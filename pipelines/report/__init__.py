"""One page that shows what a run did: how even pool and curated set are, and what is in them.

Comes in: a finished run directory. Goes out: `metrics.json` (the numbers) and `report.html` (one file
that needs no network). The stage reads the tree, the curated rows and the ids, never an embedding.
"""

from pipelines.report.stage import report

__all__ = ["report"]
