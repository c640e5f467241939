"""Embeddings become a balanced set of ids: clustering, sampling and their measures, on plain arrays."""

from curation.errors import CurationError
from curation.hierarchy import HierarchicalKMeans
from curation.kmeans import KMeans
from curation.sampling import balanced_sample
from curation.tree import Tree

__all__ = ["CurationError", "HierarchicalKMeans", "KMeans", "Tree", "balanced_sample"]
