"""`linearize` and `restore`: another backward pass for the activation modules of any model.

A module keeps its identity and state. Its class becomes a subclass that calls `lbp.autograd.call`.
"""

import fnmatch
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import BuiltinFunctionType, CodeType, FunctionType
from typing import Any, ClassVar, Generic, NamedTuple, NoReturn, TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.fx import Proxy

from lbp.autograd import call, call_whole, refuse_jit_trace
from lbp.coverage import COVERED, FUNCTIONS, MODULES, MODULES_LEFT_ALONE, Covered, resolve
from lbp.errors import LbpError, short
from lbp.literature import as_rule
from lbp.rules import BP, Field, Rule, is_whole
from lbp.whole import Whole, first_argument

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


class _NotUnpacked(LbpError, AttributeError):
    """What `linearize` returned is used as if it were the model."""

    def __init__(self) -> None:
        super().__init__(
            "linearize returns the model and a report: unpack them, as in "
            "`model, report = lbp.linearize(model)`"
        )


class Linearized(NamedTuple, Generic[Model]):
    """What `linearize` returns, to be unpacked."""

    model: Model
    report: Report

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise `LbpError`, which says what to do."""
        raise _NotUnpacked

    def __getattr__(self, name: str) -> NoReturn:
        if not name.startswith("__") and hasattr(self.model, name):
            raise _NotUnpacked
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class _UnderRule(nn.Module):
    """Put in front of a stock class: its forward pass, with the rule's backward pass."""

    lbp_rule: Rule
    _covered: ClassVar[Covered]
    _function: ClassVar[Callable[..., Tensor]]

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        # torch.fx treats only PyTorch's own classes as leaves and would trace into this one, where
        # the rule would be lost.
        if args and isinstance(args[0], Proxy):
            tracer: Any = args[0].tracer
            if name := tracer.path_of_module(self):
                return tracer.create_proxy("call_module", name, args, kwargs)  # type: ignore[no-any-return]
        if not torch.is_grad_enabled():
            refuse_jit_trace(self.lbp_rule)
            return super().forward(*args, **kwargs)  # type: ignore[no-any-return]
        return self._under_rule(args, kwargs)

    def _under_rule(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        kwargs |= {name: getattr(self, name) for name in self._covered.arguments}
        return call(self.lbp_rule, self._covered, self._function, args, kwargs)

    def __prepare_scriptable__(self) -> NoReturn:  # torch.jit.script asks for it
        raise LbpError(
            f"torch.jit.script would lose the backward rule {self.lbp_rule.name!r}: "
            "lbp.restore(model) first"
        )

    def extra_repr(self) -> str:
        return ", ".join(filter(None, [super().extra_repr(), f"rule={self.lbp_rule.name}"]))


class _WholeUnderRule(_UnderRule):
    """Put in front of a class that is taken whole, see `lbp.whole`."""

    _function: ClassVar[Callable[..., Tensor]]  # its forward pass

    def _under_rule(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        unit = Whole(self, type(self)._function)
        if not args:
            args = (kwargs.pop(first_argument(unit.forward)),)
        # Dynamo does not trace a module's own code within an autograd function. The graph is broken
        # here, and with `fullgraph=True` that is an error.
        called = _in_python if torch.compiler.is_compiling() else call_whole
        return called(self.lbp_rule, self._covered, unit, args, kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Its class is made when the unit is registered, which another process has not done yet.
        return _as_pickled, (STOCK[type(self)],), self.__getstate__()  # type: ignore[no-untyped-call]


# `torch.compiler.disable` does the same, but loads the compiler at once: seconds.
_in_python: Callable[..., Tensor] = _disable_dynamo(call_whole)


def _as_pickled(stock: type[nn.Module]) -> nn.Module:
    """Return an empty module of a class under a rule; pickle fills it."""
    from lbp.known import register_loaded  # imported here: they need this module
    from lbp.registration import register_activation

    register_loaded()
    if stock not in RULED:
        register_activation(stock)
    return RULED[stock].__new__(RULED[stock])


# One class for each activation class, such as `RuledReLU` for `nn.ReLU`, and back.
RULED: dict[type[nn.Module], type[nn.Module]] = {}
STOCK: dict[type[nn.Module], type[nn.Module]] = {}


def add_module_class(
    stock: type[nn.Module],
    covered: Covered,
    function: Callable[..., Tensor],
    namespace: dict[str, Any],
    base: type[_UnderRule] = _UnderRule,
) -> None:
    """Make the class whose modules are modules of `stock` under a rule.

    Args:
        stock: A class of activation modules.
        covered: Its entry in `lbp.coverage.MODULES`.
        function: What computes it.
        namespace: That of the module in which pickle will look for the new class.
        base: What is put in front of the class.
    """
    name = f"Ruled{stock.__name__}"
    members = {
        "__module__": namespace["__name__"],
        "__doc__": f"`{stock.__name__}` under a backward rule.",
        "_covered": covered,
        "_function": staticmethod(function),
    }
    RULED[stock] = namespace[name] = type(name, (base, stock), members)
    STOCK[RULED[stock]] = stock


def add_whole_class(stock: type[nn.Module], *, bounded: bool = False) -> Covered:
    """Make the class whose modules are modules of `stock` under a rule, taken whole."""
    covered = Covered(stock.__name__, (), bounded=bounded)
    add_module_class(stock, covered, stock.forward, {"__name__": __name__}, _WholeUnderRule)
    MODULES[stock] = covered
    return covered


for _stock, _covered in MODULES.items():
    add_module_class(_stock, _covered, resolve(_covered.functions[0]), globals())


def _stock_class(module: nn.Module) -> type[nn.Module]:
    return STOCK.get(type(module), type(module))


def from_layer(k: int) -> FromLayer:
    """Return a `where` that chooses the k-th activation module (from 1) and all later ones.

    Raises:
        LbpError: If k is not positive.
    """
    if not is_whole(k) or k < 1:
        raise LbpError(f"layer {short(k)} does not exist: layers count from 1, in whole numbers")
    return FromLayer(int(k))


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

    They may already follow a rule. Those with a forward of their own on the instance are out of
    reach, and so is what is inside of a module that is taken whole. A module registered under
    several names has the first of them.
    """
    found: dict[str, nn.Module] = {}
    whole: set[nn.Module] = set()
    for name, module in model.named_modules():
        if module in whole or _stock_class(module) not in MODULES or "forward" in vars(module):
            continue
        found[name] = module
        if issubclass(RULED[_stock_class(module)], _WholeUnderRule):
            whole.update(module.modules())
    return found


def changed_modules(model: nn.Module) -> dict[str, Rule]:
    """Return the rules of the modules of a model that `linearize` has changed, by name."""
    return {name: m.lbp_rule for name, m in model.named_modules() if isinstance(m, _UnderRule)}


def _why_left(module: nn.Module) -> str | None:
    """Return why a rule does not reach what a module computes, if there is a reason."""
    if isinstance(module, torch.jit.ScriptModule):
        return "compiled by TorchScript, out of reach of any rule"
    if "forward" in vars(module) and _stock_class(module) in MODULES:
        return (
            f"{_stock_class(module).__name__}, its forward was replaced on the instance: linearize "
            "before that, or use lbp.backward_rule"
        )
    if calls := _calls(module):
        return f"calls {', '.join(sorted(calls))}: only lbp.backward_rule reaches that"
    for kind in MODULES:
        if isinstance(module, kind):
            return f"{type(module).__name__}, a subclass of {kind.__name__}"
    for kind, why in MODULES_LEFT_ALONE.items():
        if isinstance(module, kind):
            return f"{type(module).__name__}, {why}"
    return None


def _takes_name_and_module(where: object) -> TypeGuard[Predicate]:
    if not callable(where) or isinstance(where, nn.Module):
        return False
    try:
        inspect.signature(where).bind("name", "module")
    except TypeError:
        return False
    except ValueError:  # some functions written in C have no signature
        pass
    return True


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
    if not _takes_name_and_module(where):
        raise LbpError(
            f"where={short(where)} is not understood: give a name pattern, a class or a tuple of "
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
    raise LbpError(f"where={short(where)} matches no activation module: choose from {names}")


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


def check_model(model: object) -> None:
    """Raise `LbpError` unless this is a model."""
    if isinstance(model, Linearized):
        raise _NotUnpacked
    if not isinstance(model, nn.Module):
        raise LbpError(f"{short(model)} is not a model: give a torch.nn.Module")


def linearize(
    model: Model, rule: str | Rule | Field = "linear", where: Where = None
) -> Linearized[Model]:
    """Give the activation modules of a model another backward pass.

    The modules remain the same objects, with their parameters, buffers, hooks and names. Only
    their class changes, from `nn.ReLU` to a subclass of it. The state dict and the forward pass
    stay as they were. Further calls change further modules, or the same ones again, so that rules
    can be mixed; "bp" turns them back into stock modules.

    torch.jit.script and torch.jit.trace keep no backward pass, and torch.ao's `fuse_modules` knows
    the stock classes alone: use them before `linearize`, or after `restore`. torch.compile keeps
    the rule. Of the transforms of torch.func, it compiles one `grad`, `vjp` or `jacrev`, whose
    result is then not to be differentiated again: that would miss parts of it. `vmap` breaks the
    graph (an error with fullgraph=True), and others raise an error: call these uncompiled.

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
        LbpError: If the rule is unknown, the model has no activation modules that a rule can reach
            (one whose forward was replaced on the instance is out of reach), or `where` matches
            none of them. Nothing is changed then.
    """
    from lbp.known import register_loaded  # imported here: it needs this module

    checked = as_rule(rule)
    check_model(model)
    register_loaded()
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
    return Linearized(model, Report(checked.name, changed, left))


def restore(model: Model) -> Model:
    """Undo every `linearize` on a model, in place, and return it.

    Raises:
        LbpError: If it is not a model, or if a changed module was changed again: its class, for
            example by `torch.nn.utils.parametrize`, or its forward, on the instance. Nothing is
            undone then.
    """
    check_model(model)
    for module in model.modules():
        if isinstance(module, _UnderRule) and type(module) not in STOCK:
            raise LbpError(
                f"{type(module).__name__} was made from a changed module: "
                "undo that first (for example a parametrization)"
            )
        if isinstance(module, _UnderRule) and "forward" in vars(module):
            raise LbpError(
                f"the forward of {type(module).__name__} was replaced on the instance after "
                "linearize: undo that first (del module.forward)"
            )
    for module in model.modules():
        _change(module, BP)
    return model
