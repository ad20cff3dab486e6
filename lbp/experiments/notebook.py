"""What every notebook does: check its parameters, show its runs, tables and verdicts."""

from collections.abc import Mapping, Sequence
from types import ModuleType

from IPython.display import display
from myst_nb import glue

from lbp.errors import LbpError, check_choice
from lbp.experiments import EXPERIMENTS, card, claims
from lbp.experiments import reproduce as reproduce_
from lbp.experiments.claims import Verdict
from lbp.experiments.results import Results
from lbp.experiments.scales import PROFILES
from lbp.experiments.style import run_label
from lbp.experiments.table import Table, inline
from lbp.lab.provenance import Origin
from lbp.lab.record import Record

NOTHING = "Too few runs are recorded for this yet."
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
    """Show a table; where there is no browser, its Markdown. Instead of a blank one, say so."""
    if table.is_blank:
        _show(f"<p>{NOTHING}</p>", NOTHING)
        return
    _show(table.html(), f"{table.caption}\n\n{table.markdown()}")


def _show(html: str, text: str) -> None:
    display({"text/html": html, "text/plain": text}, raw=True)  # type: ignore[no-untyped-call]


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
        diverged = [run_label(r.config) for r in records if r.diverged]
        remarks = [f"stale: {len(results.stale)}"] if results.stale else []
        remarks += [f"diverged: {'; '.join(diverged)}"] if diverged else []
        remarks += [f"failed: {run_label(f.goal.config)}: {f.reason}" for f in results.failures]
        rows.append(
            [
                results.scale.title,
                f"{len(records)} of {len(results.goals)} begun, {whole} complete",
                _trained(records),
                f"{missing:.3g} PFLOP" if missing else "none",
                "; ".join(remarks) or "-",
            ]
        )
    caption = " ".join(_note(results, notes) for results in found)
    return Table(caption, ["scale", "runs", "trained", "arithmetic that is missing", "notes"], rows)


def _trained(records: Sequence[Record]) -> str:
    if not records:
        return "-"
    origins = [stretch.origin for record in records for stretch in record.stretches]
    hours = sum(origin.seconds for origin in origins) / 3600
    devices = sorted({origin.device for origin in origins})
    return f"{hours:.1f} h on {'; '.join(devices)}"


def show_runs(found: Sequence[Results], notes: Mapping[str, str] | None = None) -> None:
    """Show how far an experiment's runs are, and what each scale changes; see `runs_table`."""
    show_table(runs_table(found, notes))


def show_text(text: str) -> None:
    """Show a paragraph of inline Markdown."""
    _show(f"<p>{inline(text)}</p>", text)


def show_card(
    question: str, answers: Sequence[str], verdicts: Sequence[Verdict] = (), notes: str = ""
) -> None:
    """Show the result card of a page; see `lbp.experiments.card.card`."""
    words = [f"{verdict.text}: {verdict.claim.statement}" for verdict in verdicts]
    text = "\n\n".join(filter(None, [question, *answers, *words, notes]))
    _show(card.card(question, answers, verdicts, notes), text)


def show_result(
    stem: str, found: Sequence[Results], notes: Mapping[str, str] | None = None
) -> None:
    """Show the result card of an experiment that has runs.

    Args:
        stem: The experiment.
        found: Its results.
        notes: What a scale changes in this experiment, by its name, where it is not the usual.
    """
    experiment = EXPERIMENTS[stem]
    answers = [experiment.answer(results) for results in found]
    shown = " ".join(_note(results, notes) for results in found if results.records)
    show_card(experiment.QUESTION, answers, _verdicts(stem, found), shown)


def _note(results: Results, notes: Mapping[str, str] | None) -> str:
    return (notes or {}).get(results.scale.name, results.scale.note)


def show_verdicts(stem: str, found: Sequence[Results]) -> None:
    """Show the verdicts on an experiment's claims, with the numbers that they rest on."""
    show_table(claims.table(_verdicts(stem, found), details=True))


def _verdicts(stem: str, found: Sequence[Results]) -> list[Verdict]:
    measures = EXPERIMENTS[stem].measures
    return claims.judge_experiment(stem, {r.scale.name: measures(r) for r in found})


def show_provenance(stem: str, found: Sequence[Results]) -> None:
    """Show, folded, where the records of an experiment come from."""
    if table := card.provenance(stem, found):
        _fold(table)


def show_computed(stem: str, seeds: str) -> None:
    """Show, folded, where a figure comes from that is computed while the book is built."""
    _fold(card.computed(stem, seeds))


def show_measured(stem: str, found: Mapping[str, Sequence[Origin]]) -> None:
    """Show, folded, where measurements come from, by the kind of device."""
    _fold(card.measured(stem, found))


def _fold(table: Table) -> None:
    _show(card.folded("Where this comes from", table), table.markdown())


def show_faults(rows: Mapping[str, Sequence[int]]) -> None:
    """Show what became of injected faults, as a card and a table.

    Args:
        rows: By kind, how many there were, were named, changed nothing, and went wrong.
    """
    total, wrong = (sum(row[column] for row in rows.values()) for column in (0, -1))
    question = "What is lost when files are damaged and processes are killed?"
    show_card(question, [f"Of {total} faults, {wrong} lost a record or changed one in silence."])
    columns = ["kind", "faults", "named in one line", "changed nothing", "lost or silently wrong"]
    cells = [[kind, *map(str, row)] for kind, row in rows.items()]
    show_table(Table("What became of the faults.", columns, cells))


def lost_table(rows: Mapping[str, Sequence[int]]) -> Table:
    """Return how many of the faults went wrong, which is the same on every machine."""
    cells = [[kind, str(row[0]), str(row[-1])] for kind, row in rows.items()]
    return Table("What was lost.", ["kind", "faults", "lost or silently wrong"], cells)
