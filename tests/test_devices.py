"""The choice of devices, and what is switched on them."""

from types import SimpleNamespace

import pytest
import torch

from lbp.errors import LbpError
from lbp.experiments import work_list
from lbp.experiments.scales import SCALES
from lbp.lab.devices import choose_devices, set_up


def chosen(*names: str) -> list[str]:
    return [str(device) for device in choose_devices(*names)]


def test_devices_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert chosen("cpu") == chosen("auto") == chosen() == ["cpu"]


def test_devices_with_two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert chosen("cpu") == ["cpu"]
    assert chosen() == chosen("auto") == chosen("cuda") == ["cuda:0"]
    assert chosen("cuda:1") == ["cuda:1"]
    assert chosen("cuda:1, cuda:0") == ["cuda:1", "cuda:0"]


@pytest.mark.parametrize(
    ("gpus", "names", "message"),
    [
        (0, "tpu", "unknown device 'tpu': choose from auto, cpu, cuda"),
        (0, "", "unknown device '': choose from auto"),
        (0, "cpu,", "unknown device '': choose from auto"),
        (0, "cuda", "no device 'cuda' here: PyTorch sees 0 CUDA GPUs; --device cpu works"),
        (0, "cuda:1", "no device 'cuda:1' here"),
        (0, "cpu,cpu", "device 'cpu,cpu' names a device twice: use --jobs"),
        (0, "auto, cpu", "device 'auto, cpu' names a device twice"),
        (2, "cuda:0,cuda:2", "no device 'cuda:2' here: PyTorch sees 2"),
        (2, "cuda:x", "no device 'cuda:x' here"),
        (2, "cuda:0,cuda:0", "names a device twice"),
        (2, "cuda,cuda:0", "names a device twice"),
        (2, "auto,cuda:0", "names a device twice"),
    ],
)
def test_a_device_that_cannot_be_chosen_is_told(monkeypatch, gpus, names, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(LbpError) as error:
        choose_devices(names)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_run_on_a_processor_has_one_thread():
    torch.set_num_threads(2)
    set_up(torch.device("cpu"))
    assert torch.get_num_threads() == 1


def test_a_gpu_may_use_tf32_and_compile_every_program_of_the_book(monkeypatch):
    """Dynamo refuses to compile a function more often than its limit; all trainers share one."""
    taken: list[torch.device] = []
    matmul, cudnn = SimpleNamespace(), SimpleNamespace()
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.backends.cuda, "matmul", matmul)
    monkeypatch.setattr(torch.backends, "cudnn", cudnn)
    device = torch.device("cuda:1")
    with torch._dynamo.config.patch(recompile_limit=8):
        set_up(device)
        limit = torch._dynamo.config.recompile_limit
    assert taken == [device]
    assert matmul == SimpleNamespace(allow_tf32=True)
    assert cudnn == SimpleNamespace(allow_tf32=True, benchmark=True)
    programs = {goal.config.program for scale in SCALES.values() for goal in work_list(scale)}
    assert 8 < len(programs) < limit
