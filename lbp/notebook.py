"""What every notebook does: check its parameters, list its runs, numbers and verdicts."""

from collections.abc import Mapping, Sequence
from types import ModuleType

from lbp import claims
from lbp.errors import LbpError, check_choice
from lbp.experiments import PROFILES, SCALE_NOTES
from lbp.models import training_flop
from lbp.reproduce import Results

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


FEW = 9  # runs that are listed one by one


def print_runs(results: Sequence[Results]) -> None:
    """Print what there is at each scale: every run if they are few, else how many."""
    for result in results:
        print(f"{result.scale}: {SCALE_NOTES[result.scale]}")
        records = result.records.values()
        missing = sum(training_flop(result.runs[label]) for label in result.missing) / 1e15
        text = f"  {len(records)} of {len(result.runs)} runs recorded"
        if records:
            minutes = sum(record.provenance.seconds for record in records) / 60
            devices = "; ".join(sorted({record.provenance.device for record in records}))
            text += f", {minutes:.0f} min of training on {devices}"
        if missing:
            text += f"; {missing:,.3g} PFLOP of arithmetic are missing"
        diverged = [label for label, r in result.records.items() if r.outcome == "diverged"]
        for word, labels in (("stale", result.stale), ("diverged", diverged)):
            if labels:
                text += f"; {word}: {'; '.join(labels)}"
        print(text)
        if records and len(result.runs) <= FEW:
            for label, config in result.runs.items():
                print(f"  {label}: {result.state(label)}\n    {config}")
        for failure in result.failures:
            print(f"  failed: {failure.config}: {failure.reason}")


def print_measures(found: Mapping[str, Mapping[str, float]]) -> None:
    """Print measures by scale and name."""
    for scale, numbers in found.items():
        print(f"{scale}:" if numbers else f"{scale}: the runs are not complete")
        for name, value in numbers.items():
            print(f"  {name}: {value:.4g}")


def print_verdicts(figure: str, found: Mapping[str, Mapping[str, float]]) -> None:
    """Print the verdicts on a figure's claims, given its measures by scale and name."""
    for verdict in claims.judge_figure(figure, found):
        print(f"{verdict.claim.statement}")
        print(f"  paper: {verdict.claim.paper}; found: {verdict.found}")
        print(f"  {verdict.word}")
