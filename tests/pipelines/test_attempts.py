"""The books of deaths: who is suspected, and who is not."""

import ray

from pipelines.attempts import ATTEMPTS, Attempts, _Books

GONE = "0" * 56  # of no machine that is there


def test_work_that_never_ends_is_not_begun_again(ray_cluster):
    attempts = Attempts()
    try:
        assert [attempts.begin("encode", 1) for _ in range(ATTEMPTS + 1)] == [True] * ATTEMPTS + [False]
        assert attempts.restarts == ATTEMPTS
        assert attempts.begin("encode", 2)
        assert attempts.begin("decode", 1)
    finally:
        attempts.close()


def test_work_that_ended_is_no_suspect(ray_cluster):
    attempts = Attempts()
    try:
        for _ in range(ATTEMPTS + 1):
            assert attempts.begin("encode", 1)
            attempts.end("encode", 1)
        assert attempts.restarts == 0
    finally:
        attempts.close()


def test_the_end_of_a_machine_is_no_death_of_its_work(ray_cluster):
    """Spot machines go all the time, and with them parts that are as good as others."""
    books, here = _Books(), ray.get_runtime_context().get_node_id()
    assert [books.begin("encode", 1, GONE) for _ in range(5)] == [0] * 5
    assert books.begin("encode", 1, here) == 0
    assert books.begin("encode", 1, GONE) == 1
    assert books.begin("encode", 1, here) == 1
    assert books.restarts() == 7
