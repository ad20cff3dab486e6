"""Which activation functions a backward rule reaches, and which it leaves alone, as plain data.

`lbp.block` and `lbp.linearization` look functions and modules up in `COVERED` and `LEFT_ALONE`. The
book's tables are made from them too, so they agree with the code.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_NAMESPACES = {"F": F, "torch": torch, "torch.special": torch.special, "Tensor": Tensor}


@dataclass(frozen=True)
class Covered:
    """An element-wise activation function that a backward rule reaches.

    Attributes:
        name: The name of its class in `torch.nn`. Only `sign` has no class.
        functions: The functions and methods that compute it; "F" is `torch.nn.functional`. Those
            with an argument `inplace` overwrite their input where it is true.
        in_place: The functions and methods that always overwrite their input.
        arguments: The module's attributes that it passes by name to the first of `functions`.
        learns: Whether it has a parameter of its own. The parameter's gradient stays the true one.
        opt_in: Whether only `backward_rule(..., sign=True)` reaches it.
        bounded: Whether its values are. As a factor of a product it is then a gate.
        note: What else a user should know.
    """

    name: str
    functions: tuple[str, ...]
    in_place: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    learns: bool = False
    opt_in: bool = False
    bounded: bool = False
    note: str = ""


@dataclass(frozen=True)
class LeftAlone:
    """Functions and modules that keep their true derivative under every rule, and why.

    Attributes:
        modules: Classes in `torch.nn`.
        functions: Functions. Each of them warns inside `backward_rule`.
        why: The reason, worded to follow a name.
    """

    modules: tuple[str, ...]
    functions: tuple[str, ...]
    why: str


COVERED = (
    Covered(
        "ReLU",
        ("F.relu", "torch.relu", "Tensor.relu"),
        ("F.relu_", "torch.relu_", "Tensor.relu_"),
        arguments=("inplace",),
    ),
    Covered("ReLU6", ("F.relu6",), arguments=("inplace",)),
    Covered(
        "LeakyReLU", ("F.leaky_relu",), ("F.leaky_relu_",), arguments=("negative_slope", "inplace")
    ),
    Covered(
        "PReLU",
        ("F.prelu", "torch.prelu", "Tensor.prelu"),
        arguments=("weight",),
        learns=True,
        note="the gradient of its weight stays the true one",
    ),
    Covered(
        "RReLU",
        ("F.rrelu", "torch.rrelu"),
        ("F.rrelu_", "torch.rrelu_"),
        arguments=("lower", "upper", "training", "inplace"),
        note="draws the random numbers that the stock function draws",
    ),
    Covered("ELU", ("F.elu",), ("F.elu_",), arguments=("alpha", "inplace")),
    Covered("SELU", ("F.selu", "torch.selu"), ("F.selu_", "torch.selu_"), arguments=("inplace",)),
    Covered(
        "CELU", ("F.celu", "torch.celu"), ("F.celu_", "torch.celu_"), arguments=("alpha", "inplace")
    ),
    Covered("GELU", ("F.gelu",), arguments=("approximate",), note="both forms, exact and tanh"),
    Covered("SiLU", ("F.silu",), arguments=("inplace",)),
    Covered("Mish", ("F.mish",), arguments=("inplace",)),
    Covered("Softplus", ("F.softplus",), arguments=("beta", "threshold")),
    Covered("Softsign", ("F.softsign",), bounded=True),
    Covered(
        "Tanh",
        ("F.tanh", "torch.tanh", "Tensor.tanh"),
        ("torch.tanh_", "Tensor.tanh_"),
        bounded=True,
    ),
    Covered("Tanhshrink", ("F.tanhshrink",)),
    Covered(
        "Hardtanh",
        ("F.hardtanh",),
        ("F.hardtanh_",),
        arguments=("min_val", "max_val", "inplace"),
        bounded=True,
    ),
    Covered("Hardsigmoid", ("F.hardsigmoid",), arguments=("inplace",), bounded=True),
    Covered("Hardswish", ("F.hardswish",), arguments=("inplace",)),
    Covered(
        "Hardshrink",
        ("F.hardshrink", "torch.hardshrink", "Tensor.hardshrink"),
        arguments=("lambd",),
    ),
    Covered("Softshrink", ("F.softshrink",), arguments=("lambd",)),
    Covered(
        "Sigmoid",
        ("F.sigmoid", "torch.sigmoid", "Tensor.sigmoid", "torch.special.expit"),
        ("torch.sigmoid_", "Tensor.sigmoid_"),
        bounded=True,
    ),
    Covered("LogSigmoid", ("F.logsigmoid",)),
    Covered(
        "Threshold",
        ("F.threshold", "torch.threshold"),
        ("F.threshold_", "torch.threshold_"),
        arguments=("threshold", "value", "inplace"),
    ),
    Covered(
        "sign",
        ("torch.sign", "Tensor.sign"),
        ("Tensor.sign_",),
        opt_in=True,
        note="with `sign=True`: a straight-through estimator; it is often not an activation",
    ),
)

LEFT_ALONE = (
    LeftAlone(
        ("Softmax", "Softmax2d", "Softmin", "LogSoftmax"),
        (
            "F.softmax",
            "torch.softmax",
            "Tensor.softmax",
            "torch.special.softmax",
            "F.softmin",
            "F.log_softmax",
            "torch.log_softmax",
            "Tensor.log_softmax",
            "torch.special.log_softmax",
            "F.gumbel_softmax",
        ),
        "not element-wise, its derivative is a matrix",
    ),
    LeftAlone(("GLU",), ("F.glu",), "not element-wise, it multiplies two halves of its input"),
    LeftAlone(
        ("LSTM", "GRU", "RNN"),
        ("torch.lstm", "torch.gru", "torch.rnn_tanh", "torch.rnn_relu"),
        "fused, its activations are out of reach inside one kernel",
    ),
    LeftAlone(
        ("LSTMCell", "GRUCell", "RNNCell"),
        ("torch.lstm_cell", "torch.gru_cell", "torch.rnn_tanh_cell", "torch.rnn_relu_cell"),
        "fused, its activations are out of reach inside one kernel",
    ),
    LeftAlone(
        ("MultiheadAttention",),
        ("F.multi_head_attention_forward", "F.scaled_dot_product_attention"),
        "its softmax is not element-wise, and fused",
    ),
    # PyTorch never takes the fast path under a function mode, so no function needs a warning.
    LeftAlone(
        ("TransformerEncoderLayer",),
        (),
        "its fast path is taken only where no gradient is wanted and no block is entered (the last "
        "bits may differ); on the other path it calls its activation as any module does",
    ),
)


def resolve(name: str) -> Callable[..., Any]:
    """Return the function of a name such as `F.relu` or `Tensor.relu`."""
    namespace, _, function = name.rpartition(".")
    return getattr(_NAMESPACES[namespace], function)  # type: ignore[no-any-return]


FUNCTIONS = {resolve(name): c for c in COVERED for name in c.functions + c.in_place}
MODULES: dict[type[nn.Module], Covered] = {
    getattr(nn, c.name): c for c in COVERED if hasattr(nn, c.name)
}
WHOLE: dict[Callable[..., Any], Covered] = {}  # by which blocks see classes taken whole
FUNCTIONS_LEFT_ALONE = {resolve(name): (name, d.why) for d in LEFT_ALONE for name in d.functions}
MODULES_LEFT_ALONE: dict[type[nn.Module], str] = {
    getattr(nn, name): d.why for d in LEFT_ALONE for name in d.modules
}

_OVERWRITING = {resolve(name) for c in COVERED for name in c.in_place}
# Their counterparts that take the same arguments, which those in `torch.nn.functional` do not.
_NOT_OVERWRITING: dict[Callable[..., Any], Callable[..., Any]] = {
    function: getattr(home, function.__name__.removesuffix("_"))
    for function in _OVERWRITING
    for home in (torch._C._nn, torch, Tensor)
    if getattr(home, function.__name__, None) is function
}
_INPLACE_ARGUMENT: dict[Callable[..., Any], int] = {
    function: list(inspect.signature(function).parameters).index("inplace")
    for function in FUNCTIONS
    if inspect.isfunction(function) and "inplace" in inspect.signature(function).parameters
}


def overwrites(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether this call of a function in `FUNCTIONS` overwrites its input."""
    if function in _OVERWRITING:
        return True
    position = _INPLACE_ARGUMENT.get(function)
    if position is None:
        return False
    return bool(args[position] if position < len(args) else kwargs.get("inplace", False))


def not_overwriting(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Return the function and arguments (after the input) that compute the same elsewhere."""
    if function in _OVERWRITING:
        return _NOT_OVERWRITING[function], args, kwargs
    return function, args[: _INPLACE_ARGUMENT[function] - 1], {**kwargs, "inplace": False}


def coverage_table() -> str:
    """Return what is covered as a table in Markdown."""

    def in_place(c: Covered) -> str:
        flagged = [n for n in c.functions if resolve(n) in _INPLACE_ARGUMENT]
        return _code([*(f"{name}(inplace=True)" for name in flagged), *c.in_place])

    rows = ["| activation | functions and methods | in place | note |", "| --- | --- | --- | --- |"]
    for c in COVERED:
        name = f"nn.{c.name}" if hasattr(nn, c.name) else c.name
        rows.append(f"| `{name}` | {_code(c.functions)} | {in_place(c)} | {c.note} |")
    return "\n".join(rows)


def left_alone_table() -> str:
    """Return what is left alone, and why, as a table in Markdown."""
    rows = ["| left alone | functions and methods | why |", "| --- | --- | --- |"]
    for d in LEFT_ALONE:
        modules = _code([f"nn.{name}" for name in d.modules])
        rows.append(f"| {modules} | {_code(d.functions)} | {d.why} |")
    return "\n".join(rows)


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
