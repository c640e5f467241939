"""Embeddings become a balanced set of ids: clustering, sampling and their measures, on plain arrays."""

from typing import TYPE_CHECKING, Any

from curation.errors import CurationError
from curation.sampling import balanced_sample
from curation.tree import Tree

if TYPE_CHECKING:
    from curation.hierarchical import HierarchicalKMeans
    from curation.kmeans import KMeans

__all__ = ["CurationError", "HierarchicalKMeans", "KMeans", "Tree", "balanced_sample"]


def __getattr__(name: str) -> Any:
    """Estimators are imported when they are asked for: they bring scikit-learn, which workers do not need."""
    if name == "KMeans":
        from curation.kmeans import KMeans

        return KMeans
    if name == "HierarchicalKMeans":
        from curation.hierarchical import HierarchicalKMeans

        return HierarchicalKMeans
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
