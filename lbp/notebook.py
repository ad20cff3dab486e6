"""What every notebook does with its parameters."""

from collections.abc import Mapping
from types import ModuleType

from lbp.errors import LbpError, check_choice
from lbp.experiments import PROFILES

_IPYTHON = {"In", "Out", "exit", "quit", "open", "get_ipython"}


def check_parameters(namespace: Mapping[str, object], **types: type) -> None:
    """Check the parameters of a notebook: call it first after the parameters cell.

    papermill only warns of a parameter that the notebook does not have, and runs on with the
    defaults; this stops instead.

    Args:
        namespace: The notebook's `globals()`.
        types: Each parameter's name and type.

    Raises:
        LbpError: If the namespace holds a name that is no parameter, a value of another type, or
            an unknown profile.
    """
    valid = ", ".join(f"{name} ({kind.__name__})" for name, kind in types.items())
    for name, value in namespace.items():
        known = name in types or name in _IPYTHON or name.startswith("_")
        if not known and not callable(value) and not isinstance(value, ModuleType):
            raise LbpError(f"unknown parameter {name!r}: this notebook has {valid}")
    for name, kind in types.items():
        value = namespace[name]
        if not isinstance(value, (int, float) if kind is float else kind):
            raise LbpError(
                f"parameter {name} = {value!r}: a value of type {kind.__name__} is needed"
            )
    if "profile" in types:
        check_choice("profile", namespace["profile"], PROFILES)
