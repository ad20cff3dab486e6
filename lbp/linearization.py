"""`linearize` and `restore`: another backward pass for the activation modules of any model.

A module keeps its identity and state. Its class becomes a subclass that calls `lbp.autograd.call`.
"""

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass
from types import BuiltinFunctionType, CodeType, FunctionType
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from lbp.autograd import call
from lbp.coverage import COVERED, FUNCTIONS, MODULES, MODULES_LEFT_ALONE, Covered, resolve
from lbp.errors import LbpError
from lbp.rules import BUILT_IN, Field, Rule, as_rule

Model = TypeVar("Model", bound=nn.Module)
Predicate = Callable[[str, nn.Module], bool]


@dataclass(frozen=True)
class FromLayer:
    """Chooses the k-th activation module and all later ones, in the order of registration.

    The first one is layer 1. In a model that registers its modules in the order in which it calls
    them, this is the choice of LinBP (Guo et al. 2020). A module that is called in several places,
    as in torchvision's ResNet, counts once.
    """

    k: int


Where = str | type[nn.Module] | tuple[type[nn.Module], ...] | Predicate | FromLayer | None


@dataclass(frozen=True)
class Report:
    """What `linearize` did, by the names of modules ("" is the model itself).

    Attributes:
        rule: The name of the rule.
        changed: Name and class of each activation module that now follows it.
        left: Name of each module left as it was, and why: not chosen by `where`, out of reach of
            any rule, or with code of its own that calls an activation function (found by looking
            for the function's name in the code, so it can miss one).
    """

    rule: str
    changed: dict[str, str]
    left: dict[str, str]

    def __str__(self) -> str:
        lines = [f"changed to the rule {self.rule}: {len(self.changed)}"]
        lines += [f"  {name or '(the model)'}: {kind}" for name, kind in self.changed.items()]
        if self.left:
            lines += [f"left as they were: {len(self.left)}"]
            lines += [f"  {name or '(the model)'}: {why}" for name, why in self.left.items()]
        return "\n".join(lines)


class _UnderRule(nn.Module):
    """Put in front of a stock class: its forward pass, with the rule's backward pass."""

    lbp_rule: Rule
    _covered: ClassVar[Covered]
    _function: ClassVar[Callable[..., Tensor]]

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        # torch.fx treats only PyTorch's own classes as leaves and would trace into this one, where
        # the rule would be lost.
        if args and isinstance(args[0], torch.fx.Proxy):
            tracer: Any = args[0].tracer
            if name := tracer.path_of_module(self):
                return tracer.create_proxy("call_module", name, args, kwargs)  # type: ignore[no-any-return]
        if not torch.is_grad_enabled():
            return super().forward(*args, **kwargs)  # type: ignore[no-any-return]
        kwargs |= {name: getattr(self, name) for name in self._covered.arguments}
        return call(self.lbp_rule, self._covered, self._function, args, kwargs)

    def extra_repr(self) -> str:
        return ", ".join(filter(None, [super().extra_repr(), f"rule={self.lbp_rule.name}"]))


# One class for each activation class, such as `RuledReLU` for `nn.ReLU`, and back.
RULED: dict[type[nn.Module], type[nn.Module]] = {}
STOCK: dict[type[nn.Module], type[nn.Module]] = {}


def add_module_class(
    stock: type[nn.Module],
    covered: Covered,
    function: Callable[..., Tensor],
    namespace: dict[str, Any],
) -> None:
    """Make the class whose modules are modules of `stock` under a rule.

    Args:
        stock: A class of activation modules.
        covered: Its entry in `lbp.coverage.MODULES`.
        function: What computes it.
        namespace: That of the module in which pickle will look for the new class.
    """
    name = f"Ruled{stock.__name__}"
    members = {
        "__module__": namespace["__name__"],
        "__doc__": f"`{stock.__name__}` under a backward rule.",
        "_covered": covered,
        "_function": staticmethod(function),
    }
    RULED[stock] = namespace[name] = type(name, (_UnderRule, stock), members)
    STOCK[RULED[stock]] = stock


for _stock, _covered in MODULES.items():
    add_module_class(_stock, _covered, resolve(_covered.functions[0]), globals())


def _stock_class(module: nn.Module) -> type[nn.Module]:
    return STOCK.get(type(module), type(module))


def from_layer(k: int) -> FromLayer:
    """Return a `where` that chooses the k-th activation module (from 1) and all later ones.

    Raises:
        LbpError: If k is not positive.
    """
    if not isinstance(k, int) or k < 1:
        raise LbpError(f"layer {k!r} does not exist: layers count from 1, in whole numbers")
    return FromLayer(k)


def _mentioned(kind: type) -> set[str]:
    """Return the global names and attributes in the methods of a class that are not PyTorch's."""

    def names(code: CodeType) -> set[str]:
        inner = (names(constant) for constant in code.co_consts if isinstance(constant, CodeType))
        return set(code.co_names).union(*inner)

    methods = [
        method
        for base in kind.__mro__
        if not base.__module__.startswith("torch.")
        for name, method in vars(base).items()
        if isinstance(method, FunctionType) and name != "__init__"
    ]
    return set().union(*(names(method.__code__) for method in methods))


_FUNCTION_NAMES = {
    name.rpartition(".")[2] for c in COVERED if not c.opt_in for name in c.functions + c.in_place
}


def _calls(module: nn.Module) -> set[str]:
    """Return the names of activation functions that a module seems to call itself."""
    in_code = {n for n in _mentioned(type(module)) & _FUNCTION_NAMES if not hasattr(module, n)}
    functions = (FunctionType, BuiltinFunctionType)
    held = {v for v in vars(module).values() if isinstance(v, functions) and v in FUNCTIONS}
    return in_code | {function.__name__ for function in held}


def activation_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules of a model that a rule can reach, by name, in the order of registration.

    They may already follow a rule. A module registered under several names has the first of them.
    """
    return {name: m for name, m in model.named_modules() if _stock_class(m) in MODULES}


def _why_left(module: nn.Module) -> str | None:
    """Return why a rule does not reach what a module computes, if there is a reason."""
    if isinstance(module, torch.jit.ScriptModule):
        return "compiled by TorchScript, out of reach of any rule"
    if calls := _calls(module):
        return f"calls {', '.join(sorted(calls))}: only lbp.backward_rule reaches that"
    for kind in MODULES:
        if isinstance(module, kind):
            return f"{type(module).__name__}, a subclass of {kind.__name__}"
    for kind, why in MODULES_LEFT_ALONE.items():
        if isinstance(module, kind):
            return f"{type(module).__name__}, {why}"
    return None


def _chosen(found: dict[str, nn.Module], where: Where) -> set[str]:
    if where is None:
        return set(found)
    if isinstance(where, FromLayer):
        return set(list(found)[where.k - 1 :])
    if isinstance(where, str):
        return {name for name in found if fnmatch.fnmatchcase(name, where)}
    if isinstance(where, type) or (
        isinstance(where, tuple) and all(isinstance(kind, type) for kind in where)
    ):
        return {name for name, module in found.items() if isinstance(module, where)}
    if not callable(where):
        raise LbpError(
            f"where={where!r} is not understood: give a name pattern, a class or a tuple of "
            "classes, a function of name and module, or from_layer(k)"
        )
    return {name for name, module in found.items() if where(name, module)}


def _checked_choice(found: dict[str, nn.Module], where: Where) -> set[str]:
    chosen = _chosen(found, where)
    if chosen:
        return chosen
    if isinstance(where, FromLayer):
        raise LbpError(f"layer {where.k} does not exist: the model has {len(found)} activations")
    names = ", ".join(list(found)[:3]) + (", ..." if len(found) > 3 else "")
    raise LbpError(f"where={where!r} matches no activation module: choose from {names}")


def _no_activations(modules: dict[str, nn.Module]) -> str:
    calls: set[str] = set().union(*(_calls(module) for module in modules.values()))
    if calls:
        names = ", ".join(sorted(calls))
        return f"the model has no activation modules but calls {names}: use lbp.backward_rule"
    left = [f"{n or 'the model'}: {why}" for n, m in modules.items() if (why := _why_left(m))]
    if left:
        return f"the model has no activation modules that a rule can reach: {'; '.join(left)}"
    return "the model has no activation modules: lbp.backward_rule may reach what it calls"


def _change(module: nn.Module, rule: Rule) -> None:
    """Make one activation module follow a rule; "bp" turns it back into a stock module."""
    stock = _stock_class(module)
    if type(module) in STOCK:
        module.__class__ = stock
        del module.lbp_rule
    if not rule.is_bp:
        module.__class__ = RULED[stock]
        module.lbp_rule = rule  # type: ignore[assignment]  # nn.Module types its attributes


def _check_model(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise LbpError(f"{model!r} is not a model: give a torch.nn.Module")


def linearize(
    model: Model, rule: str | Rule | Field = "linear", where: Where = None
) -> tuple[Model, Report]:
    """Give the activation modules of a model another backward pass.

    The modules remain the same objects, with their parameters, buffers, hooks and names. Only
    their class changes, from `nn.ReLU` to a subclass of it. The state dict and the forward pass
    stay as they were. Further calls change further modules, or the same ones again, so that rules
    can be mixed; "bp" turns them back into stock modules.

    A function that a module calls, such as `torch.nn.functional.relu`, is out of reach here and
    named in the report; `lbp.backward_rule` reaches it.

    Args:
        model: Any module; it is changed in place. The learned parameter of PReLU keeps its true
            gradient: the rule concerns the gradient with respect to the pre-activations.
        rule: As for `lbp.backward_rule`.
        where: Which activation modules: a pattern for their names (as in `fnmatch`, its * matches
            dots), a class or a tuple of classes, a function of name and module, `from_layer(k)`,
            or None for all. A class also chooses its subclasses: `nn.Hardtanh` takes `nn.ReLU6`. A
            module registered under several names has the first of them.

    Returns:
        The model, and a report of what was changed and what was left alone.

    Raises:
        LbpError: If the rule is unknown, the model has no activation modules, or `where` matches
            none of them. Nothing is changed then.
    """
    checked = as_rule(rule)
    _check_model(model)
    modules = dict(model.named_modules())
    found = activation_modules(model)
    if not found:
        raise LbpError(_no_activations(modules))
    chosen = _checked_choice(found, where)
    changed, left = {}, {}
    for name, module in modules.items():
        if name in chosen:
            changed[name] = _stock_class(module).__name__
            _change(module, checked)
        elif name in found:
            left[name] = f"{_stock_class(module).__name__}, not chosen"
        elif why := _why_left(module):
            left[name] = why
    return model, Report(checked.name, changed, left)


def restore(model: Model) -> Model:
    """Undo every `linearize` on a model, in place, and return it.

    Raises:
        LbpError: If it is not a model, or if the class of a changed module was changed again, for
            example by `torch.nn.utils.parametrize`. Nothing is undone then.
    """
    _check_model(model)
    for module in model.modules():
        if isinstance(module, _UnderRule) and type(module) not in STOCK:
            raise LbpError(
                f"{type(module).__name__} was made from a changed module: "
                "undo that first (for example a parametrization)"
            )
    for module in model.modules():
        _change(module, BUILT_IN["bp"])
    return model
