"""The backward rules of the literature, by name, with their sources.

`PUBLISHED` is the list; the book's rule atlas is made from it. A rule that a name stands for has
the parameters of its paper; the function of the same name takes others.
"""

import inspect
import math
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lbp.coverage import FUNCTIONS
from lbp.errors import LbpError, check_choice
from lbp.rules import AS_PRINTED, BP, LINEAR, Field, Rule, factor, is_number, leaky

# --- the fields: functions of the module, so that a model that holds a rule can be pickled


def _check_positive(name: str, value: object) -> None:
    if not is_number(value) or not 0 < value < math.inf:  # type: ignore[operator]
        raise LbpError(f"{name} = {value!r}: a number above 0 is needed")


def _within(low: float, high: float, z: Tensor, g: Tensor) -> Tensor:
    return torch.where((z >= low) & (z <= high), g, 0)


def _between(low: float, high: float, z: Tensor, g: Tensor) -> Tensor:
    return torch.where((z > low) & (z < high), g, 0)


def _leaky_slope(alpha: float, z: Tensor) -> Tensor:
    return torch.where(z > 0, torch.ones_like(z), alpha)


def _shifted_silu_slope(a: float, z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s + (z + a) * s * (1 - s)


def _nelu_slope(alpha: float, z: Tensor) -> Tensor:
    # z² overflows in half precision. One over it is then zero, as it should be.
    negative = 2 * alpha * z / (1 + z * z) ** 2
    return torch.where(z > 0, torch.ones_like(z), negative)


def _noisy(z: Tensor, g: Tensor) -> Tensor:
    return torch.rand_like(g) * g


def _ratio(z: Tensor, y: Tensor) -> Tensor:
    return torch.where(z == 0, 0, y / z)


def _product(ratio: Tensor, g: Tensor) -> Tensor:
    return ratio * g


def _approx(name: str, steps: tuple[float, float], thresholds: tuple[float, float, float]) -> Rule:
    """Return a rule whose factor climbs by `steps` at the thresholds, and ends at 1."""
    factors = (0.0, steps[0], steps[0] + steps[1], 1.0)
    return Rule(name, partial(_of_packed, factors), keep=partial(_pack, thresholds))


def _pack(thresholds: tuple[float, ...], z: Tensor, y: Tensor) -> Tensor:
    """Return how many of three thresholds lie below each number, four of these to a byte."""
    steps = sum(
        ((z > c).to(torch.uint8) for c in thresholds), torch.zeros_like(z, dtype=torch.uint8)
    )
    flat = steps.flatten()
    four = F.pad(flat, (0, -flat.numel() % 4)).view(-1, 4)
    packed: Tensor = four[:, 0] | four[:, 1] << 2 | four[:, 2] << 4 | four[:, 3] << 6
    return packed


def _of_packed(factors: tuple[float, ...], packed: Tensor, g: Tensor) -> Tensor:
    steps = torch.stack([packed >> shift & 3 for shift in (0, 2, 4, 6)], dim=1).flatten()
    table = torch.tensor(factors, dtype=g.dtype, device=g.device)
    return table[steps[: g.numel()].long()].view(g.shape) * g


# --- the rules


def ste_clip() -> Rule:
    """Return the straight-through estimator with a clip: g where z lies in [-1, 1], else 0."""
    return Rule("ste-clip", partial(_within, -1.0, 1.0))


def clipped_relu(c: float = 1.0) -> Rule:
    """Return the clipped ReLU's straight-through estimator: g where 0 < z < c, else 0.

    Raises:
        LbpError: If c is not positive.
    """
    _check_positive("c", c)
    return Rule(f"clipped-relu({c:g})", partial(_between, 0.0, c))


def proxygrad(alpha: float = 0.3) -> Rule:
    """Return ProxyGrad's rule: g where z > 0, else alpha * g.

    It is the derivative of a leaky ReLU, whatever the function of the forward pass.

    Args:
        alpha: The negative slope. Its default is a choice of this library.

    Raises:
        LbpError: If alpha is not positive.
    """
    _check_positive("alpha", alpha)
    return factor(f"proxygrad({alpha:g})", partial(_leaky_slope, alpha))


def bpa() -> Rule:
    """Return the rule of the Backward Propagation Attack for ReLU: SiLU's derivative times g."""
    return factor("bpa", partial(_shifted_silu_slope, 0.0))


def sugar_bsilu(a: float = 1.67) -> Rule:
    """Return SUGAR's rule with B-SiLU: the derivative of (z + a) s(z) - a / 2, s the sigmoid.

    Raises:
        LbpError: If a is not positive.
    """
    _check_positive("a", a)
    return factor(f"sugar-bsilu({a:g})", partial(_shifted_silu_slope, a))


def sugar_nelu(alpha: float = 0.05) -> Rule:
    """Return SUGAR's rule with NeLU: g where z > 0, else 2 alpha z / (1 + z²)² g.

    The factor is negative below zero.

    Args:
        alpha: The size of the negative part. Its default is a choice of this library.

    Raises:
        LbpError: If alpha is not positive.
    """
    _check_positive("alpha", alpha)
    return factor(f"sugar-nelu({alpha:g})", partial(_nelu_slope, alpha))


def approx_gelu() -> Rule:
    """Return Approx-BP's rule for GELU: a step function of z, of which two bits a unit are kept."""
    return _approx("approx-gelu", (-0.04922261145617846, 1.0979632065417297),
                   (-3.1858810036855245, -0.001178821281161997, 3.190832613414926))  # fmt: skip


def approx_silu() -> Rule:
    """Return Approx-BP's rule for SiLU: a step function of z, of which two bits a unit are kept."""
    return _approx("approx-silu", (-0.04060357190528599, 1.080925428529668),
                   (-6.3050461001646445, -0.0008684942046214787, 6.325815242089708))  # fmt: skip


def full_jam() -> Rule:
    """Return full jamming: g times noise from U(0, 1), drawn anew for each number.

    The noise comes from PyTorch's random state at the time of the backward pass.
    """
    return Rule("full-jam", _noisy, reads_input=False)


def attnlrp() -> Rule:
    """Return AttnLRP's rule for activation functions: f(z) / z times g, and 0 where z = 0."""
    return Rule("attnlrp", _product, keep=_ratio)


@dataclass(frozen=True)
class Published:
    """A rule by name, and where it comes from.

    Attributes:
        rule: The rule.
        formula: What it passes, in words of `z`, `g`, `f`, and `s` for the sigmoid.
        source: The paper, or whose choice it is.
        arxiv: The paper's number on arXiv, if it has one.
        place: The paper's equation or section.
        meant_for: The activation functions that the paper uses it with.
        bits: What is kept for the backward pass, in bits a unit, beside what the layers keep.
        note: What could not be verified, or what else to know.
    """

    rule: Rule
    formula: str
    source: str
    arxiv: str = ""
    place: str = ""
    meant_for: str = ""
    bits: str = "those of z"
    note: str = ""


PUBLISHED: dict[str, Published] = {
    "bp": Published(BP, "f'(z) g", "Backprop", bits="those of f's own backward pass"),
    "linear": Published(
        LINEAR, "g", "Yazdani 2018", place="Algorithm 2 as the text describes it",
        meant_for="tanh, ReLU", bits="0",
    ),
    "as-printed": Published(
        AS_PRINTED, "z g", "Yazdani 2018", place="Algorithm 2, line 1, letter by letter",
        meant_for="tanh, ReLU", note="most likely a misprint",
    ),
    "leaky": Published(
        leaky(), "(0.1 + 0.9 f'(z)) g", "this library",
        bits="those of f's own backward pass", note="for ReLU it is ProxyGrad's with alpha = 0.1",
    ),
    "ste-clip": Published(
        ste_clip(), "g where |z| <= 1, else 0", "Courbariaux et al. 2016", "1602.02830",
        "equation 4", "sign",
    ),
    "clipped-relu": Published(
        clipped_relu(), "g where 0 < z < 1, else 0", "Yin et al. 2019", "1903.05662",
        meant_for="binary steps",
    ),
    "proxygrad": Published(
        proxygrad(), "g where z > 0, else 0.3 g", "Linse et al. 2024", "2410.16958",
        meant_for="ReLU", note="the slope 0.3 is a choice of this library",
    ),
    "bpa": Published(
        bpa(), "(s + z s (1 - s)) g", "Wang et al. 2023", "2306.12685", meant_for="ReLU",
        note="the paper's rule for max pooling is not built",
    ),
    "sugar-bsilu": Published(
        sugar_bsilu(), "(s + (z + 1.67) s (1 - s)) g", "Horuz et al. 2025", "2505.22074",
        meant_for="ReLU",
    ),
    "sugar-nelu": Published(
        sugar_nelu(), "g where z > 0, else 0.1 z / (1 + z²)² g", "Horuz et al. 2025", "2505.22074",
        meant_for="ReLU",
        note="formula at second hand, its sign not verified; alpha = 0.05 is this library's choice",
    ),
    "approx-gelu": Published(
        approx_gelu(), "the sum of a_i over c_i < z, times g", "Yang et al. 2024", "2406.16282",
        meant_for="GELU", bits="2", note="a and c as in the authors' code",
    ),
    "approx-silu": Published(
        approx_silu(), "the sum of a_i over c_i < z, times g", "Yang et al. 2024", "2406.16282",
        meant_for="SiLU", bits="2", note="a and c as in the authors' code",
    ),
    "full-jam": Published(
        full_jam(), "u g, u from U(0, 1)", "Troiano et al. 2025", "2509.07236", bits="0",
        meant_for="any", note="a control: noise that keeps the sign",
    ),
    "attnlrp": Published(
        attnlrp(), "f(z) / z g", "Achtibat et al. 2024", "2402.05602", meant_for="GELU, SiLU",
        note="for attribution, not for training",
    ),
}  # fmt: skip
BUILT_IN = {name: published.rule for name, published in PUBLISHED.items()}


def compose(*rules: str | Rule | Field) -> Rule:
    """Return the rule that hands the gradient of each rule to the next one.

    So `compose("full-jam", "bp")` is the true gradient times noise. The last rule may be any one;
    the others have no true_share and no surrogate, as they know nothing of the function.

    An activation function with parameters of its own is computed twice under such a rule: with
    random numbers in it, the value is that of the second time. If it is a module that is taken
    whole, call it from one thread at a time, as its parameters are set aside meanwhile.

    Raises:
        LbpError: If there is none, one is unknown, or an earlier rule needs the function.
    """
    if not rules:
        raise LbpError("compose() of no rules: give two or more, such as 'full-jam' and 'bp'")
    first, *further = map(as_rule, rules)
    if not further:
        return first
    if first.true_share or first.surrogate or first.inner:
        raise LbpError(
            f"the rule {first.name} needs the function, so it can only be the last one in compose"
        )
    inner = compose(*further)
    return replace(first, name=f"{first.name} then {inner.name}", inner=inner)


def as_rule(rule: str | Rule | Field) -> Rule:
    """Return the rule that a name in `BUILT_IN`, a function of (z, g) or a `Rule` stands for.

    Raises:
        LbpError: If the name is unknown, the function takes other arguments, or it is a module or
            a class.
    """
    if isinstance(rule, Rule):
        return rule
    if isinstance(rule, nn.Module):
        raise LbpError(
            f"the module {type(rule).__name__} is not a backward rule: give a name such as "
            "'linear', a function of (pre-activation, gradient) or lbp.surrogate(module)"
        )
    if inspect.isroutine(rule) and rule in FUNCTIONS:
        raise LbpError(
            f"{rule.__name__} is an activation function, not a backward rule: "
            f"lbp.surrogate({rule.__name__}) takes its derivative"
        )
    if callable(rule):
        made = Rule(getattr(rule, "__name__", type(rule).__name__), rule)
        if isinstance(rule, type):
            raise LbpError(
                f"the class {rule.__name__} is not a backward rule: "
                "give a function of (pre-activation, gradient)"
            )
        return made
    check_choice("backward rule", rule, BUILT_IN, "a function of (pre-activation, gradient)")
    return BUILT_IN[rule]
