"""What a training step costs under Backprop and under Linear Backprop: time, and bytes kept.

Yazdani (2018), section 1, promises savings of O(ml), for m units in each of l layers. Both rules
train the same stock network here; `lbp.linearize` makes the only difference.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lbp import models, rules
from lbp.config import CLASSES, RunConfig
from lbp.errors import LbpError, check_choice
from lbp.modules import linearize
from lbp.provenance import provenance
from lbp.record import Provenance
from lbp.timing import in_turn

Model = Literal["vgg19", "resnet18"]
Activation = Literal["tanh", "relu", "gelu", "silu"]
Mode = Literal["eager", "compiled"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}
# "bp again" is the step of "bp" timed a second time: the two differ by nothing but noise.
ARMS = ("bp", "linear", "bp again")
# The modules of this package that decide what is found.
MODULES = ("models", "fields", "coverage", "modules", "override", "timing", "cost")


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is compared under both rules: one training step of a network.

    Raises:
        LbpError: If a name is unknown.
    """

    model: Model
    activation: Activation
    mode: Mode  # compiled by `torch.compile`, as it comes
    batch: int
    precision: Literal["float32", "bf16"]  # bf16: `torch.autocast`, which keeps float32 weights

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.type is not int:
                check_choice(field.name, getattr(self, field.name), get_args(field.type))

    def __str__(self) -> str:
        return f"{self.model} {self.activation} {self.mode}"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What was found for a case."""

    case: Case
    seconds: Mapping[str, Sequence[float]]  # of one step, a value for each round; by arm
    steps: int  # of whose time in a row each value is the mean
    kept: Mapping[str, int]  # bytes that autograd keeps for the backward pass; by rule
    provenance: Provenance


@dataclass(frozen=True)
class Setting:
    """What is measured at a scale, and how often."""

    device: Literal["cpu", "cuda"]
    cases: Sequence[Case]
    rounds: int
    steps: int  # taken in a row; a round records their mean


def _grid(**fields: Any) -> list[Case]:
    return [
        Case(model=model, activation=activation, mode=mode, **fields)
        for mode in get_args(Mode)
        for model in get_args(Model)
        for activation in get_args(Activation)
    ]


def vgg19() -> nn.Module:
    """Return the book's VGG19, with batch norm, and with the stock module `nn.Tanh`."""
    model = models.build(RunConfig(rule="bp"))
    _replace(model, rules.Activation, nn.Tanh)
    return model


def resnet18() -> nn.Module:
    """Return torchvision's ResNet-18 with the first layer that is usual for images of 32 x 32."""
    from torchvision.models import resnet18  # imported here: it takes seconds

    model: nn.Module = resnet18(num_classes=CLASSES)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {"vgg19": vgg19, "resnet18": resnet18}

_SMALL: dict[str, Any] = {"batch": 2, "precision": "float32"}
SETTINGS = {
    "smoke": Setting(
        "cpu",
        [
            Case(model="vgg19", activation="gelu", mode="eager", **_SMALL),
            Case(model="resnet18", activation="tanh", mode="compiled", **_SMALL),
        ],
        rounds=2,
        steps=1,
    ),
    "cpu": Setting("cpu", _grid(batch=32, precision="float32"), rounds=18, steps=1),
    "paper": Setting("cuda", _grid(batch=128, precision="bf16"), rounds=18, steps=10),
}  # fmt: skip


def network(case: Case) -> nn.Module:
    """Return a case's network, of stock modules."""
    model = MODELS[case.model]()
    _replace(model, (nn.Tanh, nn.ReLU), ACTIVATIONS[case.activation])
    return model


def _replace(
    model: nn.Module, old: type[nn.Module] | tuple[type[nn.Module], ...], new: type[nn.Module]
) -> None:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, old):
                setattr(module, name, new())


class Step:
    """A step of SGD, always on the same random images.

    Args:
        case: What is trained.
        rule: A name in `lbp.fields.BUILT_IN`.
        device: Where.
    """

    def __init__(self, case: Case, rule: str, device: torch.device) -> None:
        torch.manual_seed(0)
        self.model = network(case)
        linearize(self.model, rule)
        self.model.to(device)
        self.images = torch.randn(case.batch, 3, 32, 32, device=device)
        self.labels = torch.randint(CLASSES, (case.batch,), device=device)
        # A rate so small that a step's time does not depend on how training goes.
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=1e-6)
        self._forward = torch.compile(self.model) if case.mode == "compiled" else self.model
        self._autocast = torch.autocast(
            device.type, torch.bfloat16, enabled=case.precision == "bf16"
        )

    def loss(self) -> Tensor:
        """Return the loss, ready for its backward pass."""
        with self._autocast:
            return F.cross_entropy(self._forward(self.images), self.labels)

    def take(self) -> None:
        """Take the step."""
        self.optimiser.zero_grad()
        self.loss().backward()
        self.optimiser.step()


def bytes_kept(step: Step) -> int:
    """Return the bytes that a forward pass leaves for the backward pass.

    The model's parameters and buffers, which are there anyway, do not count, but copies of them do,
    as autocast and compilers make. Tensors that share their memory, as an activation's output and
    the next layer's input do, count once.
    """
    own = [*step.model.parameters(), *step.model.buffers()]
    there = {tensor.untyped_storage()._cdata for tensor in own}
    # By address; the storages are held, so that none is freed and its address used again.
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in there:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step.loss()
    return sum(storage.nbytes() for storage in kept.values())


def compare(case: Case, setting: Setting) -> Comparison:
    """Measure a case.

    Raises:
        LbpError: If torch.compile finds no compiler, or fails otherwise.
    """
    # Here, because loading Dynamo takes seconds.
    from torch._dynamo.exc import BackendCompilerFailed
    from torch._inductor.exc import TritonMissing

    start = time.perf_counter()
    device = torch.device(setting.device)
    torch.compiler.reset()
    bp, linear = Step(case, "bp", device), Step(case, "linear", device)

    def several(step: Step) -> Callable[[], None]:
        def take_them() -> None:
            for _ in range(setting.steps):
                step.take()

        return take_them

    for step in (bp, linear):  # first calls compile, allocate and choose algorithms
        try:
            several(step)()
        except (BackendCompilerFailed, TritonMissing) as error:
            reason = str(error).partition("\n")[0]
            raise LbpError(
                f"torch.compile fails here ({reason}): install a C++ compiler, such as g++, and "
                "for a GPU Triton"
            ) from error
    kept = {"bp": bytes_kept(bp), "linear": bytes_kept(linear)}
    arms = [several(bp), several(linear), several(bp)]
    in_turn(device, arms, 1)  # not counted: after the bytes were counted, a step takes longer
    times = in_turn(device, arms, setting.rounds)
    return Comparison(
        case=case,
        seconds=dict(zip(ARMS, (times / setting.steps).T.tolist(), strict=True)),
        steps=setting.steps,
        kept=kept,
        provenance=provenance(case.precision, device, time.perf_counter() - start, MODULES),
    )


@dataclass(frozen=True)
class Arithmetic:
    """What one image takes in a training step."""

    units: int  # of all activation functions
    flop: int  # in convolutions and linear layers, forward and backward


def arithmetic(model: str) -> Arithmetic:
    """Count the units and the arithmetic of a network.

    Linear Backprop leaves out the derivative of each unit, and one multiplication by it.

    Raises:
        LbpError: If the model is unknown.
    """
    check_choice("model", model, MODELS)
    counts: list[int] = []

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        counts.append(output.numel())

    images = 2  # batch norm cannot train on one
    with torch.device("meta"):
        net = MODELS[model]()
        x, labels = torch.empty(images, 3, 32, 32), torch.zeros(images, dtype=torch.int64)
        for module in net.modules():
            if isinstance(module, nn.Tanh | nn.ReLU):
                module.register_forward_hook(count)
        with FlopCounterMode(display=False) as counter:
            F.cross_entropy(net(x), labels).backward()
    return Arithmetic(sum(counts) // images, counter.get_total_flops() // images)
