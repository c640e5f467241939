"""Small pools that start as large ones do."""

import pytest

from curation import fit


@pytest.fixture(scope="module")
def in_batches():
    """Seeds of many clusters are drawn in batches, though the pool is small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "_LITTLE", 0)
        yield
