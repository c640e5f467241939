"""A run that loses too much stops as soon as that is known, and says so."""

import json

import numpy as np
import pytest

from pipelines.errors import RunError
from pipelines.limits import ENOUGH_TO_JUDGE, Judge, check_lost
from pipelines.store import Store

from .conftest import blobs


def row(embedded, rejected):
    return {"embedded": embedded, "rejected": rejected, "reasons": json.dumps({"It is bad.": rejected})}


def test_more_than_the_pool_may_lose_ends_it_at_once():
    judge = Judge(0.5, 100)
    judge.add(row(1, 24))
    judge.add(row(0, 25))
    told = r"51 of 52 samples so far .*limits.rejected=0.5 .*51 x It is bad; stopped early, with 48 .* to go"
    with pytest.raises(RunError, match=told):
        judge.add(row(0, 2))


def test_a_share_of_many_samples_is_judged_before_the_pool_is_done():
    judge = Judge(0.5, 100 * ENOUGH_TO_JUDGE)
    judge.add(row(1, ENOUGH_TO_JUDGE - 2))  # too few yet: bad ones may lie together
    with pytest.raises(RunError, match="stopped early"):
        judge.add(row(0, 1))


def test_what_is_allowed_goes_on():
    judge = Judge(0.5, 4 * ENOUGH_TO_JUDGE)
    for _ in range(4):
        judge.add(row(ENOUGH_TO_JUDGE // 2, ENOUGH_TO_JUDGE // 2))
    assert judge.told == f"{2 * ENOUGH_TO_JUDGE:,} rejected"


def test_parts_that_kill_are_bounded():
    check_lost({7: "encode", 3: "prepare"}, 2)
    with pytest.raises(RunError, match=r"2 parts .*1 x encode, 1 x prepare.* limits.deadly_parts=1 .*part 3"):
        check_lost({7: "encode", 3: "prepare"}, 1)


def test_a_pool_that_is_mostly_bad_is_not_read_to_its_end(evenset, write_config, tmp_path):
    (tmp_path / "pool").mkdir()
    for i in range(60):
        vectors = blobs(20)
        if i % 10:
            vectors[:] = np.nan
        np.save(tmp_path / f"pool/{i:02d}.npy", vectors)
    config = write_config(f"{tmp_path}/pool/*.npy", source={"format": "embeddings"})
    done = evenset("embed", config, "limits.rejected=0.25")
    assert done.code == 1, done
    assert "limits.rejected=0.25 allows" in done.text
    assert "stopped early, with" in done.text
    assert "The embedding has NaN" in done.text
    raised = evenset("embed", config, "limits.rejected=0.95")
    assert raised.code == 0, raised
    assert "resumed" in raised.text
    assert (
        sum(Store(str(tmp_path / "run")).rows(f"embeddings/part-{i:05d}.parquet") for i in range(60)) == 120
    )
