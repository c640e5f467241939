"""In which arithmetic a model runs where the config leaves that open."""

import pytest
import torch

from modalities import ModalityError
from modalities.encoders import device


@pytest.mark.parametrize(
    ("able", "gain", "dtype"),
    [
        ({"avx512_bf16": True}, 3.0, torch.bfloat16),
        ({"avx512_bf16": True}, 1.1, torch.float32),
        ({"amx_bf16": True}, 2.0, torch.bfloat16),
        ({}, 3.0, torch.float32),
    ],
)
def test_a_cpu_takes_bfloat16_where_that_pays(monkeypatch, able, gain, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    monkeypatch.setattr(device, "_bfloat16_gain", lambda: gain)
    assert device.place("cpu", None) == (torch.device("cpu"), dtype)


@pytest.fixture
def gpus(monkeypatch):
    """Gives this machine GPUs of these capabilities, and a CPU that is slow in bfloat16."""

    def give(*capabilities):
        def capability(asked=None):
            return capabilities[torch.device(asked).index or 0]

        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_capability", capability)
        monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
        monkeypatch.setattr(device, "_bfloat16_gain", lambda: 0.5)

    return give


@pytest.mark.parametrize("asked", [None, "cuda"])
@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        ((10, 0), torch.bfloat16),
        ((9, 0), torch.bfloat16),
        ((8, 9), torch.bfloat16),
        ((8, 0), torch.bfloat16),
        ((7, 5), torch.float32),
        ((7, 0), torch.float32),
    ],
)
def test_a_gpu_is_taken_where_there_is_one_and_bfloat16_where_it_multiplies_that(
    gpus, asked, capability, dtype
):
    gpus(capability)
    assert device.place(asked, None) == (torch.device("cuda"), dtype)


def test_each_gpu_is_asked_for_itself(gpus):
    gpus((7, 5), (8, 0))
    assert device.place("cuda:0", None) == (torch.device("cuda:0"), torch.float32)
    assert device.place("cuda:1", None) == (torch.device("cuda:1"), torch.bfloat16)


def test_what_is_asked_for_stands_before_what_is_there(gpus):
    gpus((9, 0))
    assert device.place("cpu", None) == (torch.device("cpu"), torch.float32)
    assert device.place(None, "float16") == (torch.device("cuda"), torch.float16)
    assert device.place("meta", None) == (torch.device("meta"), torch.float32)


def test_a_machine_without_a_gpu_takes_its_cpu_and_says_so_where_one_is_asked_for(gpus):
    gpus()
    assert device.place(None, None) == (torch.device("cpu"), torch.float32)
    with pytest.raises(ModalityError, match="'cuda' is not there: torch sees no GPU"):
        device.place("cuda", None)
    with pytest.raises(ModalityError, match="'abacus' is unknown"):
        device.place("abacus", None)


def test_what_is_asked_for_is_not_tried():
    assert device.place("cpu", "bfloat16")[1] == torch.bfloat16


def test_the_gain_is_measured_once():
    assert device._bfloat16_gain() > 0
    assert device._bfloat16_gain() == device._bfloat16_gain()
