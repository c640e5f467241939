import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation import KMeans
from modalities import ModalityError, Rejected, encoder, modality
from modalities.encoders.patches import Patches


def kmeans(points, k, seed):
    estimator = KMeans(k, init="k-means++", algorithm="lloyd", tol=0.0, max_iter=5, random_state=seed)
    return estimator.fit(points).cluster_centers_


def rasters(n, side=8, bands=1, seed=0, dtype=np.uint8):
    rng = np.random.default_rng(seed)
    # Smooth pictures: noise has no words to learn.
    coarse = rng.uniform(0, 255, (n, 3, 3, bands))
    weights = np.stack([np.interp(np.linspace(0, 2, side), range(3), row) for row in np.eye(3)], axis=1)
    return list(np.einsum("ia,nabc,jb->nijc", weights, coarse, weights).astype(dtype))


@pytest.fixture(scope="module")
def fitted():
    made = Patches(batch_size=8)
    made.fit(rasters(60), kmeans, seed=3)
    return made


def embed(made, samples):
    embeddings, reasons = made.encode_all([made.prepare(sample) for sample in samples])
    assert not any(reasons)
    return embeddings


@pytest.mark.parametrize(("side", "bands"), [(1, 1), (2, 3), (5, 2), (8, 1), (24, 3), (40, 16)])
def test_one_to_sixteen_bands_of_any_size(side, bands):
    made = Patches()
    samples = rasters(12, side, bands, dtype=np.float32 if bands == 16 else np.uint8)
    made.fit(samples, kmeans, seed=0)
    embeddings = embed(made, [*samples, rasters(1, side * 3, bands)[0]])
    assert embeddings.shape == (13, made.dim)
    assert np.isfinite(embeddings).all()


def test_the_same_seed_learns_the_same(fitted):
    twin = Patches(batch_size=8)
    state = twin.fit(rasters(60), kmeans, seed=3)
    np.testing.assert_array_equal(embed(fitted, rasters(5)), embed(twin, rasters(5)))
    other = Patches()
    assert any((state[key] != value).any() for key, value in other.fit(rasters(60), kmeans, seed=4).items())


def test_state_is_plain_arrays_and_carries_everything(fitted, tmp_path):
    state = Patches().fit(rasters(60), kmeans, seed=3)
    np.savez(tmp_path / "state.npz", **state)
    with np.load(tmp_path / "state.npz", allow_pickle=False) as arrays:
        copy = Patches(batch_size=8)
        copy.set_state(dict(arrays))
    copy = pickle.loads(pickle.dumps(copy))
    copy.load()
    np.testing.assert_array_equal(embed(copy, rasters(5)), embed(fitted, rasters(5)))


def test_an_encoder_that_was_not_fitted_says_so():
    with pytest.raises(ModalityError, match="not fitted"):
        Patches().load()
    with pytest.raises(ModalityError, match="not fitted"):
        Patches().prepare(rasters(1)[0])
    with pytest.raises(ModalityError, match="nonsense"):
        Patches().set_state({"nonsense": np.zeros(1)})
    with pytest.raises(ModalityError, match="no sample"):
        Patches().fit([], kmeans, 0)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 20), st.randoms())
def test_a_row_does_not_depend_on_its_place_or_its_neighbours(fitted, n, random):
    samples = rasters(20)
    whole = embed(fitted, samples)
    rows = random.sample(range(20), n)
    np.testing.assert_array_equal(embed(fitted, [samples[row] for row in rows]), whole[rows])


def test_brightness_and_contrast_of_the_pool_do_not_matter():
    samples = [sample.astype(np.float32) for sample in rasters(40)]
    plain, scaled = Patches(), Patches()
    plain.fit(samples, kmeans, 0)
    # without rounding: k-means on so few samples may end elsewhere for a last bit
    brighter = [sample * 64 - 1024 for sample in samples]
    scaled.fit(brighter, kmeans, 0)
    # of so few samples some directions are nearly alike, and a last bit turns them, but not their products
    found = embed(plain, samples), embed(scaled, brighter)
    near = np.corrcoef(*((rows @ rows.T).ravel() for rows in found))
    assert near[0, 1] > 0.999999


@pytest.mark.parametrize("value", [0, 200])
def test_samples_that_are_all_alike_have_one_embedding_with_a_direction(value):
    samples = [np.full((8, 8, 1), value, np.uint8)] * 30
    made = Patches()
    made.fit(samples, kmeans, 0)
    embeddings = embed(made, samples)
    np.testing.assert_allclose(embeddings, np.broadcast_to(embeddings[0], embeddings.shape), atol=1e-6)
    assert np.abs(embeddings).max() > 0.1
    same = rasters(1) * 30
    made = Patches()
    made.fit(same, kmeans, 0)
    embeddings = embed(made, same)
    np.testing.assert_allclose(embeddings, np.broadcast_to(embeddings[0], embeddings.shape), atol=1e-6)
    assert np.abs(embeddings).max() > 0.1


def test_grey_and_colour_mix_and_other_bands_are_rejected():
    made = Patches()
    made.fit([*rasters(20, bands=1), *rasters(3, bands=3)], kmeans, 0)
    assert made.input_shape == (8, 8, 3)
    assert embed(made, [*rasters(2, bands=1), *rasters(2, bands=3)]).shape == (4, 128)
    with pytest.raises(Rejected, match="5 bands"):
        made.prepare(rasters(1, bands=5)[0])
    with pytest.raises(Rejected, match="NaN"):
        made.prepare(np.full((8, 8, 3), np.nan, np.float32))
    with pytest.raises(ModalityError, match=r"17 bands.*choose some \(satellite\.bands\)"):
        Patches().fit(rasters(3, bands=17), kmeans, 0)
    made.fit([*rasters(3, bands=16), *rasters(1, bands=17)], kmeans, 0)
    assert made.input_shape == (8, 8, 16)


def test_it_tells_digits_apart():
    from sklearn.datasets import load_digits

    found = load_digits()
    samples = [image.astype(np.float32)[:, :, None] for image in found.images[::3]]
    labels = found.target[::3]
    made = encoder("patches", modality("image"))
    made.fit(samples, kmeans, 0)
    rows = embed(made, samples)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    similar = rows @ rows.T
    np.fill_diagonal(similar, -1)
    assert (labels[similar.argmax(axis=1)] == labels).mean() > 0.95
