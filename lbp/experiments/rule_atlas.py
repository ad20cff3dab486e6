"""The rule atlas: what each backward rule of the library passes through each activation function.

Everything is measured on the rules themselves, as `lbp.linearize` applies them.
"""

import functools
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn

from lbp.experiments.style import COLOURS, LABELS, MARKERS
from lbp.experiments.table import Table
from lbp.lab.units import UNITS
from lbp.linearization import linearize
from lbp.literature import PUBLISHED

TITLE = "The rule atlas"
PLACE = "beyond the paper"
QUESTION = "Which backward rules does the library have, and what does each pass to the layer below?"

SHOWN = {"tanh": "tanh", "relu": "ReLU", "sigmoid": "sigmoid", "gelu": "GELU", "silu": "SiLU"}
# Okabe and Ito's palette, and a line style for those who do not see the colours.
LOOKS = {
    "tanh": ("#D55E00", "-"),
    "relu": ("#0072B2", (0, (3, 1, 1, 1, 1, 1))),
    "sigmoid": ("#009E73", "-."),
    "gelu": ("#CC79A7", ":"),
    "silu": ("#000000", (0, (5, 1, 1, 1))),
}
REACH = 8.0  # curves and integrals go from -REACH to REACH
DIVERGES = 50.0  # a larger factor is that of a curve with a pole, of which the grid shows a part
BITS_UNITS = 4096  # a whole number of bytes at two bits a unit


@dataclass(frozen=True)
class Curve:
    """The factor by which a rule multiplies the gradient.

    Attributes:
        z: Pre-activations, float64 [N].
        factor: What reaches them of a gradient of 1, float64 [N].
    """

    z: NDArray[np.float64]
    factor: NDArray[np.float64]

    @property
    def largest(self) -> float:
        """The largest size of the factor."""
        return float(np.abs(self.factor).max())

    @property
    def integral(self) -> float:
        """The integral of the factor: by how much its antiderivative climbs over the curve."""
        return float(np.trapezoid(self.factor, self.z))


def _unit(rule: str, activation: str) -> nn.Module:
    unit, _ = linearize(UNITS[activation](), rule)
    return unit


def curve(rule: str, activation: str) -> Curve:
    """Return a rule's curve for an activation function.

    Args:
        rule: A name in `lbp.literature.PUBLISHED`.
        activation: A name in `lbp.lab.units.UNITS`.
    """
    z = (torch.arange(-2000, 2000, dtype=torch.float64) + 0.5) * (REACH / 2000)  # without zero
    z.requires_grad_()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of a rule that draws noise
        _unit(rule, activation)(z).sum().backward()
    assert z.grad is not None
    return Curve(z.detach().numpy(), z.grad.numpy())


def bits(rule: str, activation: str) -> float:
    """Return what is kept for the backward pass of an activation function, in bits a unit.

    In float32, and counted wherever a tensor is kept: the next layer may keep the same one.
    """
    kept: list[int] = []

    def count(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.nbytes)
        return tensor

    z = torch.randn(BITS_UNITS, generator=torch.Generator().manual_seed(0), requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        _unit(rule, activation)(z)
    return 8 * sum(kept) / BITS_UNITS


@functools.cache
def curves(rule: str) -> dict[str, Curve]:
    """Return a rule's curves, by activation; one under "any" if they are all the same."""
    found = {activation: curve(rule, activation) for activation in SHOWN}
    first = next(iter(found.values()))
    if all(np.array_equal(first.factor, other.factor) for other in found.values()):
        return {"any": first}
    return found


def draw() -> Figure:
    """Draw a panel for each rule, with a line for each activation function that it depends on."""
    columns = 3
    rows = -(-len(PUBLISHED) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(11.4, 2.5 * rows + 0.6), sharex=True, squeeze=False
    )
    for axes, rule in zip(grid.flat, PUBLISHED, strict=False):
        for activation, found in curves(rule).items():
            if activation == "any":
                every, mark = (20, ".") if rule == "full-jam" else (1, "-")  # it is noise
                axes.plot(found.z[::every], found.factor[::every], mark, color="#555555")
                continue
            colour, line = LOOKS[activation]
            axes.plot(found.z, found.factor, color=colour, linestyle=line)
        low, high = axes.get_ylim()
        axes.set_ylim(min(max(low, -2), -0.1), max(min(high, 2), 1.1))
        axes.axhline(0, color="#999999", linewidth=0.8, zorder=0)
        axes.set_title(rule)
    for axes in grid.flat[len(PUBLISHED) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel("factor of the\ngradient")
    for axes in grid.flat[: len(PUBLISHED)][-columns:]:  # the lowest of each column
        axes.set_xlabel("pre-activation z")
        axes.tick_params(labelbottom=True)
    for activation, (colour, line) in LOOKS.items():
        grid.flat[0].plot([], [], color=colour, linestyle=line, label=SHOWN[activation])
    grid.flat[0].plot([], [], color="#555555", label="any of them")
    figure.legend(loc="outside lower center", ncols=6, fontsize=9)
    return figure


def draw_passed() -> Figure:
    """Draw each activation function, and the factors by which the paper's three rules go back."""
    reach = 4.0
    figure, panels = plt.subplots(1, len(SHOWN), figsize=(12.5, 3.2), sharex=True, sharey=True)
    for axes, (activation, shown) in zip(panels, SHOWN.items(), strict=True):
        z = torch.linspace(-reach, reach, 401)
        value = UNITS[activation]()(z)
        axes.plot(z, value, ":", color="black", linewidth=2, label="the function, going forward")
        for rule in LABELS:
            found = curve(rule, activation)
            inside = np.abs(found.z) <= reach
            line = "-." if rule == "as-printed" else "-"
            style: dict[str, Any] = {"color": COLOURS[rule], "marker": MARKERS[rule]}
            x, y = found.z[inside], found.factor[inside]
            label = f"{LABELS[rule]}, going back"
            axes.plot(x, y, line, markevery=250, markersize=5, label=label, **style)
        axes.set_title(shown)
        axes.set_xlabel("pre-activation a")
    panels[0].set_ylim(-1.6, 2.1)
    panels[0].set_ylabel("value, or factor of the error")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
    return figure


def answer() -> str:
    """Say how many rules there are, how large their factors become and what they keep."""
    found = {rule: list(curves(rule).values()) for rule in PUBLISHED}
    above = [rule for rule, of_rule in found.items() if max(c.largest for c in of_rule) > 1.001]
    free = [rule for rule in PUBLISHED if not any(bits(rule, name) for name in SHOWN)]
    return (
        f"There are {len(PUBLISHED)} by name. {len(above)} of them pass more than they receive "
        f"somewhere between {-REACH:g} and {REACH:g}, and {len(free)} keep nothing for the "
        f"backward pass: {', '.join(f'`{rule}`' for rule in free)}."
    )


def sources_table() -> Table:
    """Return each rule's formula and where it comes from."""
    rows = []
    for name, published in PUBLISHED.items():
        paper = published.source
        if published.arxiv:
            paper = f"[{paper}](https://arxiv.org/abs/{published.arxiv})"
        if published.place:
            paper = f"{paper}, {published.place}"
        rows.append(
            [f"`{name}`", published.formula, paper, published.meant_for, published.note or "-"]
        )
    return Table(
        "What each rule passes to the pre-activations z, given the gradient g behind the function "
        "f; s is the sigmoid of z.",
        ["rule", "passes", "source", "proposed for", "note"],
        [[cell or "-" for cell in row] for row in rows],
    )


def measures_table() -> Table:
    """Return each rule's largest factor, its integral and the bits that it keeps."""
    rows = []
    for rule in PUBLISHED:
        for activation, found in curves(rule).items():
            names = list(SHOWN) if activation == "any" else [activation]
            kept = sorted({round(bits(rule, name)) for name in names})
            label = "any" if activation == "any" else SHOWN[activation]
            sizes = [f"{found.largest:.2f}", f"{found.integral:.2f}"]
            if found.largest > DIVERGES:
                sizes = ["no bound", "-"]
            rows.append([f"`{rule}`, {label}", *sizes, " or ".join(map(str, kept))])
    return Table(
        f"The largest size of the factor and its integral, both for z from {-REACH:g} to "
        f"{REACH:g}, and what is kept for the backward pass in float32. (The integral of "
        f"{2 * REACH:g} is that of Linear Backprop. Some functions keep their value, which the "
        "next layer keeps anyway.)",
        ["rule, function", "largest factor", "integral", "bits a unit"],
        rows,
    )
