"""`linearize` and `restore`: another backward pass for the activation modules of any model.

A module keeps its identity and state. Its class becomes a subclass that calls `lbp.autograd.call`.
Functions that modules hold are changed as well, see `lbp.held`.
"""

import fnmatch
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, NoReturn, TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.fx import Proxy

from lbp.autograd import call, call_own, call_whole, check_without_gradient
from lbp.coverage import COVERED, MODULES, MODULES_LEFT_ALONE, Covered, resolve
from lbp.errors import LbpError, short
from lbp.held import Functions, Held, held_by, in_containers
from lbp.literature import as_rule
from lbp.rules import BP, Field, Rule, is_whole
from lbp.whole import Whole, first_argument

if TYPE_CHECKING:
    from lbp.reach import Audit

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
        changed: Name and class of each activation module that now follows it. Where a module holds
            a function: the name of the attribute, and of the function.
        left: Name of each module left as it was, and why: not chosen by `where`, out of reach of
            any rule, or with code of its own that calls an activation function (found by looking
            for the function's name in the code, so it can miss one).
        audit: What a pass showed, if `linearize` had an example to call the model with.
        by_behaviour: The classes that were taken whole because they behave as activation functions
            in that pass.
    """

    rule: str
    changed: dict[str, str]
    left: dict[str, str]
    audit: "Audit | None" = None
    by_behaviour: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"changed to the rule {self.rule}: {len(self.changed)}"]
        lines += [f"  {name or '(the model)'}: {kind}" for name, kind in self.changed.items()]
        if self.left:
            lines += [f"left as they were: {len(self.left)}"]
            lines += [f"  {name or '(the model)'}: {why}" for name, why in self.left.items()]
        if self.by_behaviour:
            lines += [f"found by their behaviour: {', '.join(self.by_behaviour)}"]
        if self.audit:
            return "\n".join([*lines, "in a pass:", str(self.audit)])
        return "\n".join(
            [*lines, "not verified: lbp.audit(model, inputs) or example=inputs does so"]
        )


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
    _call: ClassVar[Callable[..., Tensor]]

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        # torch.fx treats only PyTorch's own classes as leaves and would trace into this one, where
        # the rule would be lost.
        if args and isinstance(args[0], Proxy):
            tracer: Any = args[0].tracer
            if name := tracer.path_of_module(self):
                return tracer.create_proxy("call_module", name, args, kwargs)  # type: ignore[no-any-return]
        if not torch.is_grad_enabled():
            check_without_gradient(self.lbp_rule, args, kwargs)
            return super().forward(*args, **kwargs)  # type: ignore[no-any-return]
        return self._under_rule(args, kwargs)

    def _under_rule(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        kwargs |= {name: getattr(self, name) for name in self._covered.arguments}
        return self._call(self.lbp_rule, self._covered, self._function, args, kwargs)

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
            name = first_argument(unit.forward)
            if name not in kwargs:  # its own error names what is missing
                return unit.forward(self, **kwargs)
            args = (kwargs.pop(name),)
        # Dynamo does not trace a module's own code within an autograd function. The graph is broken
        # here, and with `fullgraph=True` that is an error.
        called = _in_python if torch.compiler.is_dynamo_compiling() else call_whole
        return called(self.lbp_rule, self._covered, unit, args, kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Its class is made when the unit is taken whole, which another process has not done yet.
        stock = STOCK[type(self)]
        return _as_pickled, (stock, stock in MODULES), self.__getstate__()  # type: ignore[no-untyped-call]


# `torch.compiler.disable` does the same, but loads the compiler at once: seconds.
_in_python: Callable[..., Tensor] = _disable_dynamo(call_whole)


def _as_pickled(stock: type[nn.Module], registered: bool = True) -> nn.Module:
    """Return an empty module of a class under a rule; pickle fills it."""
    from lbp.known import register_loaded  # imported here: they need this module
    from lbp.registration import register_activation, take_whole

    register_loaded()
    if registered and stock not in MODULES:
        register_activation(stock)
    take_whole(stock)
    return RULED[stock].__new__(RULED[stock])


# One class for each activation class, such as `RuledReLU` for `nn.ReLU`, and back.
RULED: dict[type[nn.Module], type[nn.Module]] = {}
STOCK: dict[type[nn.Module], type[nn.Module]] = {}


def ruled_name(stock: type[nn.Module]) -> str:
    """Return how the class is called whose modules are modules of `stock` under a rule."""
    return f"Ruled{stock.__name__}"


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
    name = ruled_name(stock)
    members = {
        "__module__": namespace["__name__"],
        "__doc__": f"`{stock.__name__}` under a backward rule.",
        "_covered": covered,
        "_function": staticmethod(function),
        "_call": staticmethod(call if covered.functions else call_own),  # PyTorch's, or a user's
    }
    try:
        RULED[stock] = namespace[name] = type(name, (base, stock), members)
    except TypeError as error:  # as that of an __init_subclass__ of the user's
        raise LbpError(f"{stock.__name__} cannot have a subclass {name} ({error})") from error
    STOCK[RULED[stock]] = stock


def add_whole_class(stock: type[nn.Module], covered: Covered) -> None:
    """Make the class whose modules are modules of `stock` under a rule, taken whole."""
    add_module_class(stock, covered, stock.forward, {"__name__": __name__}, _WholeUnderRule)


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
        inspect.unwrap(method)
        for base in kind.__mro__
        if not base.__module__.startswith("torch.") or issubclass(base, torch.fx.GraphModule)
        for name, method in vars(base).items()
        if isinstance(method, FunctionType) and name != "__init__"
    ]
    codes = [method.__code__ for method in methods if isinstance(method, FunctionType)]
    return set().union(*map(names, codes))


_FUNCTION_NAMES = {
    name.rpartition(".")[2] for c in COVERED if not c.opt_in for name in c.functions + c.in_place
}


def _calls(module: nn.Module) -> set[str]:
    """Return the names of activation functions that a module seems to call itself."""
    in_code = {n for n in _mentioned(type(module)) & _FUNCTION_NAMES if not hasattr(module, n)}
    return in_code | in_containers(module)


def _is_whole(module: nn.Module) -> bool:
    return issubclass(RULED[_stock_class(module)], _WholeUnderRule)


def places(
    model: nn.Module, classes: Collection[type] = (), functions: Functions | None = None
) -> dict[str, nn.Module | Held]:
    """Return the modules and held functions that a rule can reach, as `activation_modules` does.

    Args:
        model: The model.
        classes: Further classes of modules, all of them taken whole.
        functions: Further functions.
    """
    found: dict[str, nn.Module | Held] = {}
    whole: set[nn.Module] = set()
    for name, module in model.named_modules():
        if module in whole:
            continue
        kind = type(module)
        if (kind in STOCK or kind in MODULES or kind in classes) and "forward" not in vars(module):
            found[name] = module
            if _is_whole(module):
                whole.update(module.modules())
        else:
            for held in held_by(module, functions or {}):
                found[f"{name}.{held.attribute}".removeprefix(".")] = held
    return found


def activation_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules of a model that a rule can reach, by name, in the order of registration.

    They may already follow a rule. Those with a forward of their own on the instance are out of
    reach, and so is what is inside of a module that is taken whole. A module registered under
    several names has the first of them.
    """
    return {name: m for name, m in places(model).items() if isinstance(m, nn.Module)}


def _rule(place: nn.Module | Held) -> Rule | None:
    """Return the rule that a module or a held function follows, if any."""
    if isinstance(place, Held):
        return place.rule
    return place.lbp_rule if isinstance(place, _UnderRule) else None


def _everywhere(model: nn.Module) -> Iterator[nn.Module | Held]:
    """Yield all modules of a model, and the functions they hold that follow a rule."""
    for module in model.modules():
        yield module
        yield from held_by(module, {})


def _parts(place: nn.Module | Held) -> list[nn.Module | Held]:
    """Return what is inside of a module that is taken whole."""
    if isinstance(place, Held) or not _is_whole(place):
        return []
    return list(_everywhere(place))[1:]


def _label(place: nn.Module | Held) -> str:
    return place.name if isinstance(place, Held) else _stock_class(place).__name__


def changed_places(model: nn.Module) -> dict[str, nn.Module | Held]:
    """Return the modules and held functions of a model that `linearize` has changed, by name."""
    return {name: place for name, place in places(model).items() if _rule(place)}


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
    if isinstance(module, tuple(MODULES)):
        kind = next(kind for kind in MODULES if isinstance(module, kind))
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


def _chosen(places: dict[str, nn.Module | Held], where: Where) -> set[str]:
    found = {n: p.module if isinstance(p, Held) else p for n, p in places.items()}
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
            "classes, a function of name and module, from_layer(k) or not_gates(model, inputs)"
        )
    return {name for name, module in found.items() if where(name, module)}


def _check_choice(chosen: Set[str], found: dict[str, nn.Module | Held], where: Where) -> None:
    """Raise `LbpError` if nothing that was found is chosen."""
    if chosen:
        return
    if isinstance(where, FromLayer):
        raise LbpError(f"layer {where.k} does not exist: the model has {len(found)} activations")
    names = ", ".join(list(found)[:3]) + (", ..." if len(found) > 3 else "")
    raise LbpError(f"where={short(where)} matches no activation module: choose from {names}")


def _no_activations(modules: dict[str, nn.Module], looked_at: bool = False) -> str:
    """Say that a model has no activation modules; `looked_at` if a pass looked for some."""
    if looked_at:
        from lbp.lookalike import FEWEST  # imported here: it needs this module

        found = _no_activations(modules)
        return f"{found} (a class is found by its behaviour if it is called with {FEWEST} numbers)"
    calls: set[str] = set().union(*(_calls(module) for module in modules.values()))
    if calls:
        names = ", ".join(sorted(calls))
        return f"the model has no activation modules but calls {names}: use lbp.backward_rule"
    left = [f"{n or 'the model'}: {why}" for n, m in modules.items() if (why := _why_left(m))]
    if left:
        return f"the model has no activation modules that a rule can reach: {'; '.join(left)}"
    return "the model has no activation modules: lbp.backward_rule may reach what it calls"


def _change(place: nn.Module | Held, rule: Rule) -> None:
    """Make one module or held function follow a rule; "bp" turns it back into the stock one."""
    if isinstance(place, Held):
        place.change(rule)
        return
    module = place
    stock = _stock_class(module)
    if type(module) in STOCK:
        module.__class__ = stock
        del module.lbp_rule
    if not rule.is_bp:
        module.__class__ = RULED[stock]
        module.lbp_rule = rule  # type: ignore[assignment]  # nn.Module types its attributes


def _check_present(
    classes: Iterable[type], functions: Functions, found: dict[str, nn.Module | Held]
) -> None:
    """Raise `LbpError` if something that a user names in `also` is not in the model."""
    kinds = {_stock_class(place) for place in found.values() if isinstance(place, nn.Module)}
    if absent := [kind.__name__ for kind in classes if kind not in kinds]:
        raise LbpError(f"also={', '.join(absent)}: the model has no module of that class")
    held = {place.function for place in found.values() if isinstance(place, Held)}
    if absent := [covered.name for f, covered in functions.items() if f not in held]:
        raise LbpError(
            f"also={', '.join(absent)}: no module holds that function as an attribute; let the "
            "model call what lbp.register_activation returns for it"
        )


def _ruled(model: nn.Module) -> list[tuple[nn.Module | Held, Rule]]:
    """Return what follows a rule, but for modules whose class was changed again since."""
    return [
        (place, rule)
        for place in _everywhere(model)
        if (rule := _rule(place)) and (isinstance(place, Held) or type(place) in STOCK)
    ]


def _undo(model: nn.Module, before: list[tuple[nn.Module | Held, Rule]]) -> None:
    for place in _everywhere(model):
        _change(place, BP)
    for place, rule in before:
        _change(place, rule)


def _audit(model: nn.Module, example: Any) -> "Audit":
    from lbp.reach import audit  # imported here: it needs this module

    args = example if type(example) is tuple else (example,)  # a named tuple is one argument
    return audit(model, **example) if isinstance(example, Mapping) else audit(model, *args)


def _check_nothing_remains(rule: str, audit: "Audit", not_chosen: Set[str]) -> None:
    """Raise `LbpError` if a pass called what the rule should reach and does not, or nothing."""
    remaining = [r for r in audit.remaining if not r.is_in(not_chosen)]
    if remaining:
        names = ", ".join(f"{r.likely} in {r.module or 'the model'}" for r in remaining[:5])
        more = ", ..." if len(remaining) > 5 else ""
        help_ = "use lbp.backward_rule"
        if not all(r.by_block for r in remaining):
            help_ += " for PyTorch's activation functions, and a module class of its own for others"
        raise LbpError(f"strict: the rule {rule} does not reach {names}{more}: {help_}")
    if not audit.reached:
        raise LbpError(f"strict: the rule {rule} reaches no call in this pass")


def check_model(model: object) -> None:
    """Raise `LbpError` unless this is a model."""
    if isinstance(model, Linearized):
        raise _NotUnpacked
    if not isinstance(model, nn.Module):
        raise LbpError(f"{short(model)} is not a model: give a torch.nn.Module")


def linearize(
    model: Model,
    rule: str | Rule | Field = "linear",
    where: Where = None,
    *,
    also: Iterable[type[nn.Module] | Callable[..., Tensor]] = (),
    example: Any = None,
    strict: bool = False,
) -> Linearized[Model]:
    """Give the activation modules of a model another backward pass.

    The modules remain the same objects, with their parameters, buffers, hooks and names. Only
    their class changes, from `nn.ReLU` to a subclass of it. The state dict and the forward pass
    stay as they were. Further calls change further modules, or the same ones again, so that rules
    can be mixed; "bp" turns them back into stock modules.

    A function that a module holds as an attribute is changed as well, under the attribute's name:
    `layers.0.activation` of an `nn.TransformerEncoder`, whose layers hold `F.relu`. The attribute
    is then another object, so code that asks whether it `is F.relu` finds that it is not.

    Rules that read the pre-activations keep them, as the stock function may not: PyTorch raises an
    error where they are overwritten before the backward pass. Of an in-place call on a slice, whose
    copy is dense, such rules may round the last bit of the value differently.

    torch.jit.script and torch.jit.trace keep no backward pass, and torch.ao's `fuse_modules` knows
    the stock classes alone: use them before `linearize`, or after `restore`. torch.compile keeps
    the rule. Of the transforms of torch.func, it compiles one `grad`, `vjp` or `jacrev`, whose
    result is then not to be differentiated again: that would miss parts of it. `vmap` breaks the
    graph (an error with fullgraph=True), and others raise an error: call these uncompiled.

    A function that a module calls by its name, such as `torch.nn.functional.relu`, is out of reach
    here and named in the report; `lbp.backward_rule` reaches it.

    Args:
        model: Any module; it is changed in place. The learned parameter of PReLU keeps its true
            gradient: the rule concerns the gradient with respect to the pre-activations.
        rule: As for `lbp.backward_rule`.
        where: Which activation modules: a pattern for their names (as in `fnmatch`, its * matches
            dots), a class or a tuple of classes, a function of name and module, `from_layer(k)`,
            `not_gates(model, inputs)`, or None for all. A class also chooses its subclasses:
            `nn.Hardtanh` takes `nn.ReLU6`. A module registered under several names has the first of
            them. For a function that a module holds, the module is asked.
        also: Further classes of activation modules that are taken whole, and further functions that
            modules hold, in this call only; see `lbp.register_activation`.
        example: What the model is called with: a tuple of arguments, a dict of arguments by name,
            or one argument. With it, classes of modules that behave as activation functions in a
            pass, element by element (in training and in evaluation) and not linear, are taken
            whole like those in `also`, and the report holds what `lbp.audit` finds.
        strict: Whether it is an error if the pass calls an activation function that is chosen but
            keeps its true derivative, or calls none that follows the rule.

    Returns:
        The model, and a report of what was changed and what was left alone.

    Raises:
        LbpError: If the rule is unknown, the model has no activation modules that a rule can reach
            (one whose forward was replaced on the instance is out of reach), or `where` matches
            none of them; if `also` names something that is not in the model; if the model rejects
            the example, or `strict` finds something. Nothing is changed then.
    """
    # imported here: they need this module
    from lbp.known import register_loaded
    from lbp.registration import further

    checked = as_rule(rule)
    check_model(model)
    if strict and example is None:
        raise LbpError("strict=True needs an example: give example=, what the model is called with")
    register_loaded()
    modules = dict(model.named_modules())
    classes, functions = further(also) if also != () else (set(), {})
    found = places(model, classes, functions)
    _check_present(classes, functions, found)
    if not found and example is None:
        raise LbpError(_no_activations(modules))
    chosen = _chosen(found, where)
    if example is None:
        _check_choice(chosen, found, where)
    before = _ruled(model) if example is not None else []
    changed, left = {}, {}
    inside: set[nn.Module | Held] = set()  # of modules that are taken whole
    for name, place in found.items():
        parts = _parts(place)
        inside.update(parts)
        if name in chosen:
            changed[name] = _label(place)
            _change(place, checked)
            for part in parts:
                _change(part, BP)
        else:
            left[name] = f"{_label(place)}, not chosen"
    for name, place in found.items():
        if place in inside and name in changed:
            del changed[name]
            left[name] = f"{_label(place)}, part of a module that is taken whole"
    for name, module in modules.items():
        if name not in found and module not in inside and (why := _why_left(module)):
            left[name] = why
    report = Report(checked.name, changed, left)
    if example is None:
        return Linearized(model, report)
    try:
        audit = _audit(model, example)
        behaving = {type(modules[name]) for names in audit.suggested.values() for name in names}
        if behaving - classes:
            _undo(model, before)
            # Not from `also` itself, which may be an iterator and used up.
            also = (*classes, *behaving, *functions)
            _, report = linearize(model, rule, where, also=also, example=example, strict=strict)
            names = {*report.by_behaviour, *(kind.__name__ for kind in behaving)}
            taken = sorted(names.intersection(report.changed.values()))
            return Linearized(model, replace(report, by_behaviour=tuple(taken)))
        if not found:
            raise LbpError(_no_activations(modules, looked_at=True))
        _check_choice(chosen, found, where)
        if strict and not checked.is_bp:  # nothing has to follow the rule bp
            _check_nothing_remains(checked.name, audit, found.keys() - chosen)
    except BaseException:
        _undo(model, before)
        raise
    return Linearized(model, replace(report, audit=audit))


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
    for place in _everywhere(model):
        _change(place, BP)
    return model
