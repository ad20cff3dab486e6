"""`audit`: what a backward rule reaches in a model, seen in one pass and not guessed from code.

The pass records which module makes which nodes of the autograd graph. Those of a rule are known
from the calls themselves; the others are judged by their names.
"""

import copy
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.utils._pytree import tree_leaves, tree_map_only

from lbp import autograd
from lbp.block import backward_rule
from lbp.coverage import MODULES_LEFT_ALONE, Covered
from lbp.errors import LbpError
from lbp.held import Held
from lbp.linearization import changed_places, check_model, linearize, places, restore
from lbp.lookalike import Called, lookalikes
from lbp.nodes import (
    activation_kind,
    behind,
    handed_on,
    is_mean,
    is_of_a_function,
    is_root,
    is_sum,
    kind_on_a_slice,
    multiplied,
    other_kind,
    stem,
)


@dataclass(frozen=True)
class Remaining:
    """Nodes of one kind that no rule has changed.

    Attributes:
        module: The module that makes them, "" for the model itself.
        node: Their name in the autograd graph.
        likely: What they are likely to be.
        times: How many there are.
    """

    module: str
    node: str
    likely: str
    times: int

    @property
    def by_block(self) -> bool:
        """Whether they are those of a function that a block of `backward_rule` reaches."""
        return is_of_a_function(self.node)

    def is_in(self, places: Set[str]) -> bool:
        """Whether they are made in one of these modules, or by a function that it holds."""
        parts = self.module.split(".")
        inside = {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
        return not inside.isdisjoint(places)


@dataclass(frozen=True)
class Audit:
    """What a rule reaches in a model, as one pass showed it.

    Attributes:
        reached: How many calls the rule reached, by the module that made them, or the attribute
            that holds the function.
        gates: How many of these calls are gates: a bounded function that multiplies another branch,
            as in x * sigmoid(x) or a squeeze-and-excitation block, or one that multiplies itself.
            There the rule changes one factor of a larger function, whose gradient is then neither
            Backprop's nor the rule's.
        never_called: Changed modules and functions that the pass did not call.
        remaining: Activation functions, or what may be some, that keep their true derivative.
        others: How many further nodes are not linear, by kind: softmax, normalisation and so on.
            They are no activation functions, and no rule is meant to reach them.
        differs: Whether some gradient differs from that of Backprop.
        suggested: Classes whose modules remain, act as gates or have other nodes that are not
            linear, but behave as activation functions: element by element, in training and in
            evaluation, and not linear. By the class's name, the modules. They can be taken
            whole, see `lbp.register_activation`.
    """

    reached: Mapping[str, int]
    gates: Mapping[str, int]
    never_called: tuple[str, ...]
    remaining: tuple[Remaining, ...]
    others: Mapping[str, int]
    differs: bool
    suggested: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether the rule reached every activation function that was called, and no gate."""
        return self.differs and not (self.remaining or self.never_called or self.gates)

    def __str__(self) -> str:
        calls = sum(self.reached.values())
        lines = [f"reached by the rule: {calls} calls in {len(self.reached)} modules"]
        lines += [f"  {_shown(name)}: {n}" for name, n in self.reached.items()]
        if self.gates:
            lines += [
                f"of these as a gate, a factor of a product: {sum(self.gates.values())} calls"
            ]
            lines += [f"  {_shown(name)}: {n}" for name, n in self.gates.items()]
        if self.never_called:
            lines += [f"changed, but not called: {', '.join(map(_shown, self.never_called))}"]
        if self.remaining:
            lines += [f"with their true derivative: {sum(r.times for r in self.remaining)}"]
            lines += [
                f"  {_shown(r.module)}: {r.likely} ({r.node}), {r.times}" for r in self.remaining
            ]
        lines += [
            f"{kind} looks like an activation function ({', '.join(map(_shown, names))}): "
            f"lbp.register_activation({kind}), or also=[{kind}], takes it whole"
            for kind, names in self.suggested.items()
        ]
        if self.others:
            kinds = ", ".join(f"{kind} {n}" for kind, n in sorted(self.others.items()))
            lines += [f"not linear, but no activation functions: {kinds}"]
        if not self.differs:
            lines += ["the gradient is that of Backprop (behind a layer of zeros it always is)"]
        return "\n".join(lines)


def _shown(name: str) -> str:
    return name or "(the model)"


def audit(model: nn.Module, /, *inputs: Any, **named: Any) -> Audit:
    """Look at which activation functions of a model a backward rule reaches.

    Call it on a model that `linearize` has changed, or inside a block of `backward_rule`. The model
    is copied, so that its state stays as it is, and its copy is run with gradients. What the pass
    does not run, as a branch for other inputs, is not seen; neither is what happens under
    `torch.no_grad()` in the model, nor what is done by a mask, as in `z * (z > 0)` or
    `z.masked_fill(z < 0, 0)`.

    Args:
        model: The model, as it is to be trained.
        inputs: What it is called with.
        named: What it is called with by name.

    Raises:
        LbpError: If it is not a model, cannot be copied or called with these inputs, or gives
            nothing that has a gradient.
    """
    check_model(model)
    seen = _pass(model, inputs, named)
    gates, remaining = _gates(seen), _remaining(seen)
    owners = {r.module for r in remaining}.union(*((n, n.rpartition(".")[0]) for n in gates))
    owners |= {seen.owner[node] for node, _ in _kinds_of_others(seen)}
    return Audit(
        reached=dict(seen.reached),
        gates=gates,
        never_called=tuple(n for n in changed_places(model) if n not in seen.reached),
        remaining=remaining,
        others=Counter(kind for _, kind in _kinds_of_others(seen)),
        differs=_differs(model, inputs, named),
        suggested=lookalikes({n: c for n, c in seen.called.items() if n in owners}, seen.kinds),
    )


def _pass(
    model: nn.Module,
    inputs: tuple[Any, ...],
    named: dict[str, Any],
    *,
    with_gradient: bool = False,
) -> "_Seen":
    """Call a copy of a model and return what that shows.

    Args:
        model: The model.
        inputs: What it is called with.
        named: What it is called with by name.
        with_gradient: Whether all inputs get a gradient, so that a branch of data is seen.
    """
    if any(p.is_meta for p in model.parameters()):
        raise LbpError("the model is on the meta device: give it numbers, as model.to_empty does")
    ours = _copy(model)
    seen = _Seen()
    with _watched(ours, seen):
        fresh = _fresh(inputs, named)
        if with_gradient:
            fresh = tree_map_only(Tensor, _that_may_be_overwritten, fresh)
        seen.outputs = _call(ours, *fresh)
    seen.claim("", _nodes(seen.outputs))
    return seen


@dataclass(frozen=True)
class NotGates:
    """Chooses the activation functions that are no gates, see `not_gates`.

    Attributes:
        gates: The names of the gates.
    """

    gates: frozenset[str]

    def __call__(self, name: str, module: nn.Module) -> bool:
        """Whether an activation function of this name is chosen."""
        return name not in self.gates


def not_gates(model: nn.Module, /, *inputs: Any, **named: Any) -> NotGates:
    """Return a `where` that leaves gates alone, as one pass shows them.

    Here a gate is a sigmoid, or another bounded function with values between 0 and 1, that
    multiplies another branch, as in a squeeze-and-excitation block. A sigmoid's slope is a quarter
    at most. Linear Backprop leaves it out, so the error that comes through the gate is at least
    four times Backprop's. A gate left alone keeps its true derivative; what the other activation
    functions add to the gradient stays. `Audit.gates` counts more: also a tanh that is multiplied,
    and what multiplies itself.

    A branch is what depends on the input or on other layers; a parameter by itself is none.

    A module that is a gate in one call is left alone in all. The result is a function of name and
    module, so it can be joined with a further condition in a function of your own.

    Args:
        model: The model. It stays as it is: a copy is changed.
        inputs: What it is called with.
        named: What it is called with by name.

    Raises:
        LbpError: As `audit`, or if the model has no activation modules.
    """
    check_model(model)
    changed, _ = linearize(_copy(model))
    for parameter in changed.parameters():  # a branch may come from layers that are frozen
        if not isinstance(parameter, UninitializedParameter):  # which have a gradient already
            parameter.requires_grad_(_can_have_gradient(parameter))
    return NotGates(_shares(_pass(changed, inputs, named, with_gradient=True)))


def _that_may_be_overwritten(tensor: Tensor) -> Tensor:
    """Return a tensor with a gradient, where it can have one, which a model may overwrite."""
    return tensor.requires_grad_().clone() if _can_have_gradient(tensor) else tensor


def _can_have_gradient(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


@dataclass(frozen=True)
class _Value:
    """The value of one call under a rule, kept if the function is bounded."""

    module: str
    numbers: Tensor | None

    @property
    def bounded(self) -> bool:
        return self.numbers is not None

    @property
    def is_share(self) -> bool:
        """Whether the function is bounded, and all numbers lie between 0 and 1."""
        return self.numbers is not None and bool(((self.numbers >= 0) & (self.numbers <= 1)).all())


@dataclass
class _Seen:
    """What a pass has shown so far; nodes are kept so that none gets the identity of another."""

    owner: dict[Any, str] = field(default_factory=dict)  # the module of each node
    ruled: set[Any] = field(default_factory=set)  # those of a rule
    # The last of them in each call.
    values: dict[Any, _Value] = field(default_factory=dict)
    into: dict[Any, set[Any]] = field(default_factory=dict)  # those that each one's value goes into
    reached: Counter[str] = field(default_factory=Counter)
    kinds: set[Covered] = field(default_factory=set)  # what the rule reached
    called: dict[str, Called] = field(default_factory=dict)  # modules with one input and output
    left_alone: dict[str, str] = field(default_factory=dict)  # modules that no rule is to reach
    stack: list[str] = field(default_factory=lambda: [""])
    outputs: list[Tensor] = field(default_factory=list)  # without them the graph is freed

    def claim(self, module: str, starts: Iterable[Any]) -> list[Any]:
        """Give a module the nodes behind some, themselves included, that no module has yet.

        They are returned.
        """
        found = list(_behind(starts, self.owner))
        for node in found:
            self.owner[node] = module
            for following in behind(node):
                self.into.setdefault(following, set()).add(node)
        return found

    def on_call(self, covered: Covered, node: Any, out: Tensor) -> None:
        """Note a call under a rule, given the node of its pre-activations."""
        module = self.stack[-1]
        self.claim(module, [node] if node is not None else [])
        self.ruled.update(self.claim(module, _nodes(out)))
        value = _Value(module, out.detach() if covered.bounded else None)
        self.values.update(dict.fromkeys(_nodes(out), value))
        self.reached[module] += 1
        self.kinds.add(covered)

    def inside(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function and claim its nodes for a name."""
        self.claim(self.stack[-1], _nodes((args, kwargs)))
        self.stack.append(name)
        out = function(*args, **kwargs)
        self.claim(name, _nodes(out))
        self.stack.pop()
        return out


def _nodes(values: Any) -> Iterator[Any]:
    for value in tree_leaves(values):
        if isinstance(value, Tensor) and value.grad_fn is not None:
            yield value.grad_fn


def _behind(starts: Iterable[Any], known: Mapping[Any, str]) -> Iterator[Any]:
    """Yield the nodes that lead to some, themselves included, as far as they are not known."""
    waiting = [node for node in starts if node not in known]
    found = set(waiting)
    while waiting:
        node = waiting.pop()
        yield node
        for following in behind(node):
            if following not in known and following not in found:
                found.add(following)
                waiting.append(following)


@contextmanager
def _watched(model: nn.Module, seen: _Seen) -> Iterator[None]:
    """Record within the block which module makes which nodes, and which calls follow a rule.

    The model is a copy, in which the functions that modules hold are replaced for good.
    """

    def enter(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        seen.claim(seen.stack[-1], _nodes((args, kwargs)))
        seen.stack.append(name)

    def leave(name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        seen.claim(name, _nodes(output))
        seen.stack.pop()
        if called := Called.with_one(module, args, kwargs, output):
            seen.called[name] = called

    for name, place in places(model).items():
        if isinstance(place, Held):
            held = vars(place.module)
            held[place.attribute] = partial(seen.inside, name, held[place.attribute])
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue  # they take no hooks: what they do counts for the module around them
            if _is_left_alone(module):
                seen.left_alone[name] = f"inside of {type(module).__name__}"
            before = module.register_forward_pre_hook(
                partial(enter, name), with_kwargs=True, prepend=True
            )
            after = module.register_forward_hook(partial(leave, name), with_kwargs=True)
            stack.callback(before.remove)
            stack.callback(after.remove)
        stack.enter_context(autograd.watched_by(seen.on_call))
        yield


def _is_left_alone(module: nn.Module) -> bool:
    """Whether a module's own code is one that no rule is to reach.

    A subclass with code of its own is looked at, and so is `nn.TransformerEncoderLayer`, which
    calls its activation function as any module does.
    """
    kinds = [k for k in MODULES_LEFT_ALONE if k is not nn.TransformerEncoderLayer]
    return any(isinstance(module, k) and type(module).forward is k.forward for k in kinds)


def _is_of_norm(seen: "_Seen", node: Any) -> bool:
    """Whether a power or a clamp is part of a norm, a distance or a loss.

    Such a power goes into a sum, or into a mean whose root is taken or that is a loss. (A mean of
    squares that goes on may be a pooling behind a squared ReLU.) Such a clamp limits a norm.
    """
    if stem(node) == "Pow":
        return any(is_sum(n) or _is_of_squares(seen, n) for n in seen.into.get(node, ()))
    return stem(node).startswith("Clamp") and all(
        stem(b) in ("Norm", "LinalgVectorNorm") for b in behind(node)
    )


def _is_of_squares(seen: "_Seen", node: Any) -> bool:
    """Whether a node is a mean of all numbers, or one whose root is taken or that is an output."""
    return is_mean(node) and (node.name() == "MeanBackward0" or _leads_to_a_root(seen, node))


def _leads_to_a_root(seen: "_Seen", node: Any) -> bool:
    """Whether the root of a node's value is taken, or the value is an output."""
    further = seen.into.get(node, set())
    ways = (is_root(n) or (handed_on(n) and _leads_to_a_root(seen, n)) for n in further)
    return not further or any(ways)


def _is_foreign(node: Any) -> bool:
    return isinstance(node, torch.autograd.function.BackwardCFunction)


def _factors(seen: _Seen, node: Any) -> list[frozenset[Any]]:
    """Return what each factor of a product comes from: of one that multiplies two branches.

    A parameter by itself is no branch: to multiply by it is what a layer does.
    """
    sources = [_sources(seen, factor) for factor in multiplied(node)]
    branches = [found for found in sources if not all(map(_is_parameter, found))]
    return branches if len(branches) > 1 else []


def _is_parameter(node: Any) -> bool:
    return isinstance(getattr(node, "variable", None), nn.Parameter)


def _remaining(seen: _Seen) -> tuple[Remaining, ...]:
    found: Counter[tuple[str, str, str]] = Counter()
    for node, module in seen.owner.items():
        if node in seen.ruled or _other(seen, node, module):
            continue
        if likely := _likely(node):
            found[module, str(node.name()), likely] += 1
    return tuple(Remaining(*key, times) for key, times in sorted(found.items()))


def _likely(node: Any) -> str | None:
    """Return what activation function a node may be, None if it is linear."""
    foreign = "a foreign autograd.Function" if _is_foreign(node) else None
    return foreign or kind_on_a_slice(node) or activation_kind(stem(node))


def _kinds_of_others(seen: _Seen) -> Iterator[tuple[Any, str]]:
    """Yield the nodes that are not linear and that no rule is meant to reach, and what they are."""
    for node, module in seen.owner.items():
        if node in seen.ruled:
            continue
        if kind := _other(seen, node, module):
            yield node, kind
        elif _factors(seen, node):
            yield node, "a product of two branches"


def _other(seen: _Seen, node: Any, module: str) -> str | None:
    """Return what a node is that is not linear and that no rule is meant to reach."""
    if kind := other_kind(stem(node)):
        return kind
    if _is_of_norm(seen, node):
        return "normalisation"
    return seen.left_alone.get(module) if _likely(node) else None


def _gates(seen: _Seen) -> dict[str, int]:
    """Return how many calls under a rule are gates, by module.

    A gate is a bounded function that is a factor of a product, or one that multiplies itself.
    """
    found: set[Any] = set()
    for factors in _products(seen):
        itself = len(factors) > len(set(factors))
        calls = frozenset().union(*factors) & seen.values.keys()
        found.update(f for f in calls if seen.values[f].bounded or itself)
    return dict(Counter(value.module for node, value in seen.values.items() if node in found))


def _shares(seen: _Seen) -> frozenset[str]:
    """Return the modules whose calls multiply another branch by numbers between 0 and 1."""
    values = [
        seen.values[f]
        for factors in _products(seen)
        for f in frozenset().union(*factors) & seen.values.keys()
        if len(set(factors)) > 1
    ]
    return frozenset(value.module for value in values if value.is_share)


def _products(seen: _Seen) -> Iterator[list[frozenset[Any]]]:
    """Yield what the factors of each product come from."""
    for product in seen.owner.keys() - seen.ruled:
        if factors := _factors(seen, product):
            yield factors


def _sources(seen: _Seen, node: Any) -> frozenset[Any]:
    """Return the calls that a factor comes from, or where their ways branch."""
    found, waiting = set(), {node}
    while waiting:
        node = waiting.pop()
        further = () if node in seen.values else handed_on(node)
        waiting.update(further)
        if not further:
            found.add(node)
    return frozenset(found)


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:  # whatever a module's own code raises
        raise LbpError(
            f"the model cannot be copied to be looked at ({type(error).__name__}: {error})"
        ) from error


@contextmanager
def _own_random_numbers() -> Iterator[None]:
    """Seed Python's and NumPy's random numbers within the block, and leave theirs as they were."""
    numpy: Any = sys.modules.get("numpy")
    state, arrays = random.getstate(), numpy and numpy.random.get_state()
    random.seed(0)
    if numpy:
        numpy.random.seed(0)
    try:
        yield
    finally:
        random.setstate(state)
        if numpy:
            numpy.random.set_state(arrays)


def _call(model: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> list[Tensor]:
    """Return the outputs of a model that have a gradient."""
    if torch.is_inference_mode_enabled():
        raise LbpError("torch.inference_mode() is on, which makes no gradients: leave it first")
    try:
        with torch.enable_grad(), torch.random.fork_rng(), _own_random_numbers():
            torch.manual_seed(0)
            outputs = model(*inputs, **named)
    except LbpError:
        raise
    except Exception as error:  # whatever the model raises
        raise LbpError(
            f"the model rejects this input ({type(error).__name__}: {_first_line(error)}): "
            "give what it is called with"
        ) from error
    tensors = [value for value in tree_leaves(outputs) if isinstance(value, Tensor)]
    if not tensors:
        raise LbpError(
            f"the model returns a {type(outputs).__name__} in which no tensor is found: let it "
            "return a tensor, or tuples, lists and dicts of tensors"
        )
    found = [tensor for tensor in tensors if tensor.requires_grad]
    if not found:
        raise LbpError("no output of the model has a gradient: there is nothing to look at")
    return found


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]


def _differs(model: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> bool:
    """Whether the gradient of a model's parameters and inputs differs from Backprop's."""
    ours = _gradients(_copy(model), inputs, named)
    stock = restore(_copy(model))
    with backward_rule("bp"):
        true = _gradients(stock, inputs, named)
    return not all(map(_alike, ours, true))


def _alike(first: Tensor | None, second: Tensor | None) -> bool:
    if first is None or second is None:
        return first is second
    if torch.equal(first, second) or first.layout is not torch.strided:
        return torch.equal(first, second)
    nan = first.isnan()  # which equals nothing, itself included
    return torch.equal(nan, second.isnan()) and torch.equal(first[~nan], second[~nan])


def _gradients(
    model: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
) -> list[Tensor | None]:
    inputs, named = _fresh(inputs, named)
    leaves = [v for v in tree_leaves((inputs, named)) if isinstance(v, Tensor)]
    outputs = _call(model, inputs, named)
    generator = torch.Generator("cpu").manual_seed(0)
    weights = [
        torch.randn(o.shape, generator=generator, device="cpu").to(o.device, o.dtype)
        for o in outputs
    ]
    ours = [tensor for tensor in (*leaves, *model.parameters()) if tensor.is_leaf]
    with _gradients_kept(outputs, ours):
        try:
            # Not `torch.autograd.grad`, which some activation checkpointing refuses.
            torch.autograd.backward(outputs, weights)
        except LbpError:
            raise
        except RuntimeError as error:
            raise LbpError(f"the model has no backward pass here ({_first_line(error)})") from error
    return [tensor.grad for tensor in ours]


@contextmanager
def _gradients_kept(outputs: Iterable[Tensor], ours: Iterable[Tensor]) -> Iterator[None]:
    """Let a backward pass leave the gradients of tensors that are not ours as they are.

    They belong to the user, as parameters that a model takes from elsewhere.
    """
    mine = set(map(id, ours))
    leaves = [getattr(node, "variable", None) for node in _behind(_nodes(list(outputs)), {})]
    theirs = [(leaf, leaf.grad) for leaf in leaves if leaf is not None and id(leaf) not in mine]
    for leaf, _ in theirs:
        leaf.grad = None
    try:
        yield
    finally:
        for leaf, gradient in theirs:
            leaf.grad = gradient


def _fresh(
    inputs: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return copies of the inputs, for a model may change them and they shall get no gradient."""

    def fresh(tensor: Tensor) -> Tensor:
        return tensor.detach().clone().requires_grad_(tensor.requires_grad)

    found: tuple[tuple[Any, ...], dict[str, Any]] = tree_map_only(Tensor, fresh, (inputs, named))
    return found
