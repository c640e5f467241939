"""Of sounds with a long tail, a curated set is more even over the classes than a random draw."""

from collections import Counter

import numpy as np
from evenset_audio import LogMel, Sound
from make_sounds import CLASSES, make

from curation import HierarchicalKMeans, balanced_sample
from curation.balance import kl_to_uniform

SIZE = 80


def classes(ids):
    """How many samples each class has."""
    counts = Counter(id.partition("/")[0] for id in ids)
    return [counts[name] for name in CLASSES]


def test_a_curated_set_is_more_even_than_a_random_draw(tmp_path):
    curated, random = [], []
    for seed in range(3):
        make(tmp_path / str(seed), 600, seed)
        files = sorted((tmp_path / str(seed)).rglob("*.wav"))
        ids = [file.relative_to(tmp_path / str(seed)).as_posix() for file in files]
        sounds = [Sound().decode(file.read_bytes()) for file in files]
        encoder = LogMel()
        encoder.fit(sounds, kmeans=None, seed=seed)
        embeddings, _ = encoder.encode_all([encoder.prepare(sound) for sound in sounds])
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        tree = HierarchicalKMeans([80, 20], random_state=seed).fit(embeddings, ids=ids).tree_
        curated.append(kl_to_uniform(classes(balanced_sample(tree, size=SIZE))))
        random.append(kl_to_uniform(classes(np.random.default_rng(seed).choice(ids, SIZE, replace=False))))
    assert np.mean(curated) < 0.7 * np.mean(random), (curated, random)
