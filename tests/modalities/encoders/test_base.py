"""What every encoder gets from its base: some rows of a batch are encoded as they are in the whole of it."""

import numpy as np
import pytest
import torch

from modalities.encoders.base import Encoder, OutOfMemory, ran_out


class Placed(Encoder):
    """Like a model whose arithmetic depends on a row's place, and on the longest row of its batch."""

    accepts, dim, batch_size, spec = ("raster",), 3, 8, "placed"
    input_shape, input_dtype = (2,), np.dtype(np.float32)

    def __init__(self, argument=None, *, kind=None, batch_size=None, dtype=None, device=None):
        self.broken = argument

    def prepare(self, sample):
        return sample

    def load(self):
        pass

    def encode(self, batch, like=None):
        if self.broken == "shape":
            return np.zeros((len(batch), self.dim + 1), np.float32)
        five = any(row[0] == 5 for row in batch)
        if self.broken == "memory once" and five and len(batch) > 1:
            raise RuntimeError("out of memory")
        if self.broken == "shape once" and five and len(batch) > 1:
            return np.zeros((1, self.dim), np.float32)
        if self.broken == "memory" or (self.broken == "large row" and five):
            torch.empty(2**60)
        if self.broken == "nan" and five:
            return np.array([[np.nan if row[0] == 5 else row[0], 0, 0] for row in batch], np.float32)
        if self.broken == "row" and five:
            raise ValueError("5 is too many")
        longest = max(row[1] for row in (batch if like is None else like))
        return np.array([[row[0], place, longest] for place, row in enumerate(batch)], np.float32)


ROWS = [np.array([i + 1, 10 * i], np.float32) for i in range(8)]


@pytest.mark.parametrize("places", [[0, 1, 2, 3], [4, 5, 6, 7], [6], [1, 7], list(range(8))])
def test_some_rows_of_a_batch_are_encoded_in_their_places_and_in_its_shape(places):
    whole, _ = Placed().encode_all(ROWS)
    some, reasons = Placed().encode_batch(ROWS, places)
    np.testing.assert_array_equal(some, whole[places])
    assert reasons == [None] * len(places)


def test_a_row_that_fails_has_a_reason_and_the_others_have_embeddings():
    rows, reasons = Placed("row").encode_all(ROWS)
    assert [i for i, reason in enumerate(reasons) if reason] == [4]
    assert "5 is too many" in reasons[4]
    assert np.isnan(rows[4]).all()
    np.testing.assert_array_equal(np.delete(rows[:, 0], 4), [1, 2, 3, 4, 6, 7, 8])


def test_an_encoder_that_returns_another_shape_is_broken():
    with pytest.raises(RuntimeError, match="failed on each of the 8 samples of a batch"):
        Placed("shape").encode_all(ROWS)


@pytest.mark.parametrize("how", ["shape once", "memory once"])
def test_a_batch_that_fails_as_a_whole_is_encoded_row_by_row(how):
    rows = [np.array([i + 1, 10 * i], np.float32) for i in range(20)]
    found, reasons = Placed(how).encode_all(rows)
    assert reasons == [None] * 20
    np.testing.assert_array_equal(found[:, 0], np.arange(1, 21))


def test_a_row_that_becomes_nan_has_a_reason():
    found, reasons = Placed("nan").encode_all(ROWS)
    assert [i for i, reason in enumerate(reasons) if reason] == [4]
    assert "NaN or infinity" in reasons[4]
    np.testing.assert_array_equal(np.delete(found[:, 0], 4), [1, 2, 3, 4, 6, 7, 8])


@pytest.mark.parametrize("rows", [8, 3, 1])
def test_memory_that_runs_out_over_all_of_a_batch_is_no_fault_of_its_samples(rows):
    with pytest.raises(OutOfMemory, match="no memory for batches of 8 samples"):
        Placed("memory").encode_all(ROWS[:rows])


def test_memory_that_runs_out_over_one_sample_costs_that_one():
    rows, reasons = Placed("large row").encode_all(ROWS)
    assert [i for i, reason in enumerate(reasons) if reason] == [4]
    assert "allocate memory" in reasons[4]
    np.testing.assert_array_equal(np.delete(rows[:, 0], 4), [1, 2, 3, 4, 6, 7, 8])


def test_a_batch_of_one_cannot_be_halved_so_the_sample_is_rejected():
    encoder = Placed("memory")
    encoder.batch_size = 1
    _, reasons = encoder.encode_all(ROWS)
    assert all("allocate memory" in reason for reason in reasons)


def raised(call, *arguments):
    try:
        call(*arguments)
    except Exception as error:
        return error
    raise AssertionError("it was to fail")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        torch.cuda.OutOfMemoryError("CUDA out of memory."),
        raised(torch.empty, 2**60),
        raised(np.empty, 2**60, np.uint8),
        MemoryError(),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported elsewhere"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=["a GPU", "a GPU by its older name", "torch on a CPU", "numpy", "Python", "CUDA", "cuBLAS"],
)
def test_errors_of_memory_are_known(error):
    assert ran_out(error)


@pytest.mark.parametrize(
    "outcome",
    [
        raised(torch.matmul, torch.ones(2, 3), torch.ones(2, 3)),
        RuntimeError("CUDA error: device-side assert triggered"),
        ValueError("a caption says that it could not allocate memory"),
        FloatingPointError("overflow"),
        KeyError("memory"),
        np.zeros((2, 3), np.float32),
        None,
    ],
)
def test_other_errors_and_results_are_none_of_memory(outcome):
    assert not ran_out(outcome)
