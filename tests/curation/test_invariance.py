"""The fast recipe gives the same bits however the points are spread, ordered, held and looked through.

Both pools are small, but each runs every part of the recipe that its number of clusters allows, close
calls among them; that leaving these to float32 is seen here is checked as well.
"""

import numpy as np
import pytest

from curation import KMeans, fit
from curation.assign import Assigner
from curation.chance import keys_of
from curation.exact import normalize_rows
from curation.kernels import cpu
from tests.curation.fits import fitted
from tests.curation.kernels.twins import on_grid, two_nearest
from tests.curation.pools import blobs, halfway

FEW = on_grid(blobs(3000, 8, 200)), 150, {}
MANY = on_grid(halfway(12_000, 160, 900)), 900, {"max_iter": 12}
CASES = {"few": FEW, "many": MANY, "sketch": MANY, "cosine": (*FEW[:2], {"distance": "cosine"})}

pytestmark = pytest.mark.usefixtures("in_batches")


def rough(rows, transposed, out):
    """A product with errors of half the bound."""
    np.matmul(rows, transposed, out=out)
    norms = np.linalg.norm(rows, axis=1)[:, None] * np.linalg.norm(transposed, axis=0)
    noise = np.random.default_rng(len(rows)).uniform(-0.5, 0.5, out.shape)
    terms = int(transposed.any(axis=1).sum())  # a coordinate that is zero adds no error
    out += (noise * cpu.product_bound(terms) * norms).astype(np.float32)
    return out


@pytest.fixture(autouse=True)
def rough_route(monkeypatch):
    monkeypatch.setitem(cpu.ROUTES, "rough", rough)


VARIANTS = {
    "another order": {"shuffled": 0},
    "two blocks": {"blocks": 2, "shuffled": 1},
    "three blocks": {"blocks": 3, "slices": 3},
    "seven blocks": {"blocks": 7, "slices": 3, "shuffled": 2},
    "tiles of 64 rows": {"assigner": Assigner(tile=64, threads=1)},
    "tiles of 1000 rows and two threads": {"assigner": Assigner(tile=1000, threads=2)},
    "OpenBLAS": {"assigner": Assigner("numpy")},
    "MKL": {"assigner": Assigner("torch")},
    "oneDNN": {"assigner": Assigner("onednn")},
    "a product that errs as it may": {"assigner": Assigner("rough")},
}


@pytest.fixture(scope="module", params=CASES)
def case(request, in_batches):
    rows, k, plan = CASES[request.param]
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "sketch":  # where the seeds are drawn, though clusters have few points
            patch.setattr(fit, "SPARSE", 0)
        yield rows, k, plan, fitted(rows, k, **plan)


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_but_points_and_plan_matters(case, variant):
    rows, k, plan, twin = case
    assert fitted(rows, k, **VARIANTS[variant], **plan) == twin


@pytest.mark.parametrize("how", [{}, {"chunk_rows": 997}, {"blocks": 3, "shuffled": 3, "chunk_rows": 400}])
def test_rows_in_files_are_rows_in_memory(case, how, tmp_path):
    rows, k, plan, twin = case
    assert fitted(rows, k, folder=tmp_path, **how, **plan) == twin


def test_the_estimator_gives_the_same(case):
    rows, k, plan, twin = case
    if plan.get("distance") == "cosine":
        pytest.skip("it would normalise the rows first")
    fit = KMeans(k, **plan).fit(rows)
    assert np.array_equal(fit._centroids, twin.centroids)
    assert np.array_equal(fit.labels_, twin.labels)
    order = np.random.default_rng(0).permutation(len(rows))
    other = KMeans(k, **plan).fit(rows[order], ids=[str(i) for i in order])
    assert np.array_equal(other.labels_, twin.labels[order])


def test_labels_are_the_nearest_centroids(case):
    rows, _, _, twin = case
    assert np.array_equal(twin.labels, two_nearest(rows, twin.centroids)[0])


def test_weights_do_not_hang_on_blocks():
    rows, k, plan = MANY
    weights = np.random.default_rng(0).integers(1, 100, len(rows))
    twin = fitted(rows, k, weights=weights, **plan)
    assert fitted(rows, k, weights=weights, blocks=3, slices=2, shuffled=0, **plan) == twin
    assert fitted(rows, k, **plan) != twin


def test_the_pool_of_many_clusters_runs_every_part_of_the_recipe():
    asked = {}
    rows, k, plan = MANY
    fitted(rows, k, asked=asked, **plan)
    for part in ("attract", "merits", "thin", "directions", "sketched", "candidates", "restricted", "hint"):
        assert asked.get(part, 0) > 0
    for part in ("pivots", "halves", "replace", "nearest_others"):
        assert asked.get(part, 0) > 0


def test_where_candidates_would_be_many_every_iteration_looks_at_all():
    """Of directions at random many are neighbours of some in a group; where there are clusters, few are."""
    n, k, d = 3000, 560, 160
    plan = {"max_iter": 8, "distance": "cosine"}
    noise, clustered = {}, {}
    rows = on_grid(normalize_rows(np.random.default_rng(0).standard_normal((n, d), np.float32)))
    twin = fitted(rows, k, asked=noise, **plan)
    assert noise["candidates"] == 1  # which told that they do not pay
    assert noise["assign"] == twin.n_iter
    assert noise["label"] > 0
    assert "restricted" not in noise
    assert "hint" not in noise
    assert fitted(rows, k, blocks=3, slices=2, shuffled=0, **plan) == twin
    twin = fitted(on_grid(normalize_rows(blobs(n, d, k))), k, asked=clustered, **plan)
    assert clustered["candidates"] == twin.n_iter
    assert clustered["restricted"] > 0


def test_fits_that_only_choose_points_are_brief_and_the_same():
    rows, k, _ = MANY
    asked = {}
    twin = fitted(rows, k, exactly=False, intermediate=True, asked=asked)
    assert asked["approach"] == 1
    assert twin.n_iter == 4
    for variant in ("three blocks", "tiles of 1000 rows and two threads", "a product that errs as it may"):
        assert fitted(rows, k, exactly=False, intermediate=True, **VARIANTS[variant]) == twin


def test_rough_labels_are_of_near_centroids():
    rows, k, _ = MANY
    rough, exact = (fitted(rows, k, exactly=exactly, intermediate=True) for exactly in (False, True))
    assert exact.inertia <= rough.inertia <= 1.1 * exact.inertia


def test_leaving_close_calls_to_float32_would_be_seen():
    """On a lattice, where many points are as near to one centroid as to another."""
    rows = on_grid(np.random.default_rng(0).integers(0, 5, (20_000, 8)) + 0.1)
    exact, rough = (
        fitted(rows, 3000, assigner=Assigner("rough", recheck=recheck), max_iter=2)
        for recheck in (True, False)
    )
    assert exact != rough


def test_keys_are_all_there_is_to_chance():
    """Other names, another fit; the same names, the same."""
    rows = FEW[0]
    names = [f"x{i}" for i in range(len(rows))]
    one, again, other = (KMeans(150).fit(rows, ids=ids).labels_ for ids in (names, names, None))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert len(keys_of(names)) == len(rows)
