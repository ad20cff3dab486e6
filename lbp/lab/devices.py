"""The choice of devices, and the switches of PyTorch that decide how they round."""

import torch

from lbp.errors import LbpError


def choose_devices(names: str = "auto") -> list[torch.device]:
    """Return the devices named, by commas: "auto" (the first GPU, if any), "cpu", "cuda:0,cuda:1".

    Raises:
        LbpError: If a name is unknown or stands twice, or there is no such GPU.
    """
    gpus = torch.cuda.device_count()
    known = ["auto", "cpu", "cuda", *(f"cuda:{index}" for index in range(gpus))]
    chosen = []
    for given in names.split(","):
        name = given.strip()
        if name == "auto":
            name = "cuda" if gpus else "cpu"
        if name not in known and not name.startswith("cuda"):
            raise LbpError(
                f"unknown device {name!r}: choose from auto, cpu, cuda, cuda:0, cuda:1, ..."
            )
        if name.startswith("cuda") and (name not in known or not gpus):
            raise LbpError(
                f"no device {name!r} here: PyTorch sees {gpus} CUDA GPUs; --device cpu works"
            )
        chosen.append(torch.device("cuda:0" if name == "cuda" else name))
    if len(set(chosen)) < len(chosen):
        raise LbpError(f"device {names!r} names a device twice: use --jobs for several runs on one")
    return chosen


def set_up(device: torch.device) -> None:
    """Prepare this process for training on a device.

    On a processor a run has one thread: two are no faster, and the numbers of a run must not depend
    on how many others are trained beside it. A GPU may use TF32; the record says so.
    """
    if device.type != "cuda":
        torch.set_num_threads(1)
        return
    torch.cuda.set_device(device)
    # All trainers compile the same function; after 8 versions of it PyTorch would refuse.
    torch._dynamo.config.recompile_limit = 256
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True  # every step has the same shapes
