"""What every notebook does: check its parameters, show its runs, tables and verdicts."""

from collections.abc import Mapping, Sequence
from types import ModuleType

from IPython.display import Markdown, display
from myst_nb import glue

from lbp.errors import LbpError, check_choice
from lbp.experiments import claims
from lbp.experiments import reproduce as reproduce_
from lbp.experiments.numbers import Measure
from lbp.experiments.results import Results
from lbp.experiments.scales import PROFILES
from lbp.experiments.table import Table
from lbp.lab.record import Record

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
        fits = isinstance(value, (int, float) if kind is float else kind)
        if not fits or (isinstance(value, bool) and kind is not bool):
            raise LbpError(
                f"parameter {name} = {value!r}: a value of type {kind.__name__} is needed"
            )
    if "profile" in types:
        check_choice("profile", namespace["profile"], PROFILES)


def reproduce(
    stem: str,
    profile: str,
    *,
    epochs: int = 0,
    device: str = "auto",
    jobs: int = 0,
    minutes: float = 0.0,
    data: str = "",
) -> list[Results]:
    """Return an experiment's results; see `lbp.experiments.reproduce.reproduce`.

    A parameter of a notebook has a type: here 0 and "" stand for what is not given.
    """
    return reproduce_.reproduce(
        stem,
        profile,
        epochs=epochs or None,
        device=device,
        jobs=jobs or None,
        minutes=minutes or None,
        data=data or None,
    )


def show_table(table: Table) -> None:
    """Show a table with its caption below."""
    display(Markdown(f"{table.markdown()}\n\n*{table.caption}*"))  # type: ignore[no-untyped-call]


def glue_texts(texts: Mapping[str, str]) -> None:
    """Make texts known to the prose of the book, by their names."""
    for name, text in texts.items():
        glue(name, text, display=False)


def runs_table(found: Sequence[Results], notes: Mapping[str, str] | None = None) -> Table:
    """Return how far an experiment's runs are, a row for each scale.

    Args:
        found: The experiment's results.
        notes: What a scale changes in this experiment, by its name, where it is not the usual.
    """
    rows = []
    for results in found:
        records = list(results.records.values())
        whole = sum(results.reached(goal) for goal in results.goals)
        missing = sum(map(results.missing_flop, results.goals)) / 1e15
        diverged = [str(r.config) for r in records if r.diverged]
        remarks = [f"stale: {len(results.stale)}"] if results.stale else []
        remarks += [f"diverged: {'; '.join(diverged)}"] if diverged else []
        remarks += [f"failed: {f.goal.config}: {f.reason}" for f in results.failures]
        rows.append(
            [
                results.scale.title,
                f"{len(records)} of {len(results.goals)} begun, {whole} complete",
                _trained(records),
                f"{missing:.3g} PFLOP" if missing else "none",
                "; ".join(remarks) or "-",
            ]
        )
    caption = " ".join((notes or {}).get(r.scale.name, r.scale.note) for r in found)
    return Table(caption, ["scale", "runs", "trained", "arithmetic that is missing", "notes"], rows)


def _trained(records: Sequence[Record]) -> str:
    if not records:
        return "-"
    hours = sum(record.seconds for record in records) / 3600
    devices = sorted({s.origin.device for record in records for s in record.stretches})
    return f"{hours:.1f} h on {'; '.join(devices)}"


def show_runs(found: Sequence[Results], notes: Mapping[str, str] | None = None) -> None:
    """Show how far an experiment's runs are, and what each scale changes; see `runs_table`."""
    show_table(runs_table(found, notes))


def show_answers(answers: Sequence[str]) -> None:
    """Show what the runs of an experiment say, a paragraph for each scale."""
    display(Markdown("\n\n".join(answers)))  # type: ignore[no-untyped-call]


def show_verdicts(stem: str, found: Mapping[str, Mapping[str, Measure | float]]) -> None:
    """Show the verdicts on an experiment's claims, given its numbers by place and name."""
    show_table(claims.table(claims.judge_experiment(stem, found), details=True))


def faults_table(rows: Mapping[str, Sequence[int]]) -> Table:
    """Return what became of injected faults.

    Args:
        rows: By kind, how many there were, were named, changed nothing, and went wrong.
    """
    columns = ["kind", "faults", "named in one line", "changed nothing", "lost or silently wrong"]
    cells = [[kind, *map(str, row)] for kind, row in rows.items()]
    return Table("What became of the faults.", columns, cells)
