"""What a training step costs under Backprop and under Linear Backprop: time, and bytes kept.

Yazdani (2018), section 1, promises savings of O(ml), for m units in each of l layers. Both rules
train the same stock network here; `lbp.linearize` makes the only difference.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lbp.errors import LbpError, check_choice
from lbp.lab.config import RunConfig
from lbp.lab.models import build
from lbp.lab.provenance import Origin, origin
from lbp.lab.timing import in_turn

MODES = ("eager", "compiled")
RULES = ("bp", "linear")
# "bp again" is the step of "bp" timed a second time: the two differ by nothing but noise.
ARMS = (*RULES, "bp again")


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is compared under both rules: one training step of a network.

    Raises:
        LbpError: If a name is unknown, or the batch is out of range.
    """

    model: str
    activation: str
    mode: str  # a name in `MODES`; compiled by `torch.compile`, as it comes
    batch: int
    precision: str

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, MODES)
        self.run("bp")

    def run(self, rule: str) -> RunConfig:
        """Return the run that takes this step under a rule."""
        fields = asdict(self) | {"rule": rule}
        del fields["mode"]
        return RunConfig(**fields)

    def __str__(self) -> str:
        return f"{self.model} {self.activation} {self.mode}"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What was found for a case.

    Attributes:
        case: The case.
        seconds: By arm, the time of one step in each round, to five digits.
        steps: How many steps in a row a round times; it records their mean time.
        kept: By rule, the bytes that autograd keeps for the backward pass, see `bytes_kept`.
        origin: Where and when this was measured.
    """

    case: Case
    seconds: Mapping[str, Sequence[float]]
    steps: int
    kept: Mapping[str, int]
    origin: Origin


class Step:
    """A step of SGD, always on the same random images.

    Args:
        case: What is trained.
        rule: A name in `RULES`.
        device: Where.
    """

    def __init__(self, case: Case, rule: str, device: torch.device) -> None:
        torch.manual_seed(0)
        run = case.run(rule)
        self.model = build(run).to(device)
        self.images = torch.randn(case.batch, 3, 32, 32, device=device)
        self.labels = torch.randint(run.classes, (case.batch,), device=device)
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


def compare(case: Case, device: torch.device, *, rounds: int, steps: int) -> Comparison:
    """Measure a case: in each round, time every arm once.

    Args:
        case: What is compared.
        device: Where.
        rounds: How often each arm is timed.
        steps: How many steps in a row a round times; it records their mean time.

    Raises:
        LbpError: If torch.compile finds no compiler, or fails otherwise.
    """
    # Here, because loading Dynamo takes seconds.
    from torch._dynamo.exc import BackendCompilerFailed
    from torch._inductor.exc import TritonMissing

    start = time.perf_counter()
    torch.compiler.reset()
    bp, linear = (Step(case, rule, device) for rule in RULES)

    def several(step: Step) -> Callable[[], None]:
        def take_them() -> None:
            for _ in range(steps):
                step.take()

        return take_them

    arms = [several(bp), several(linear), several(bp)]
    try:
        for arm in arms[:2]:  # first calls compile, allocate and choose algorithms
            arm()
    except (BackendCompilerFailed, TritonMissing) as error:
        reason = str(error).partition("\n")[0]
        raise LbpError(
            f"torch.compile fails here ({reason}): install a C++ compiler, such as g++, and "
            "for a GPU Triton"
        ) from error
    kept = {"bp": bytes_kept(bp), "linear": bytes_kept(linear)}
    in_turn(device, arms, 1)  # not counted: after the bytes were counted, a step takes longer
    times = in_turn(device, arms, rounds) / steps
    return Comparison(
        case=case,
        seconds={arm: list(map(_rounded, row)) for arm, row in zip(ARMS, times.T, strict=True)},
        steps=steps,
        kept=kept,
        origin=origin(device, time.perf_counter() - start),
    )


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
