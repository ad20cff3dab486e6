"""The paper's claims and their verdicts, computed from data.

The claims are in data/claims.yml: each names a measure of an experiment, the bounds within which it
must lie for the claim to count as reproduced, and how many epochs the test needs at each scale.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import yaml

from lbp.errors import LbpError, check_choice
from lbp.experiments import EXPERIMENTS, cost, fig1_synthetic
from lbp.experiments.agreement import SEED_DISTANCES
from lbp.experiments.numbers import FEWEST_SEEDS, Estimate, Measure
from lbp.experiments.reproduce import recorded
from lbp.experiments.scales import NARROW, PAPER
from lbp.experiments.table import Badge, Cell, Table
from lbp.lab import files, paths
from lbp.lab.store import Store

REPRODUCED = "reproduced"
NOT_REPRODUCED = "not reproduced"
UNTOLD = "cannot be told"
BEGUN = "not yet decided"  # its runs are still shorter than the test needs
NOT_RUN = "not yet run"
WORDS = (REPRODUCED, NOT_REPRODUCED, UNTOLD, BEGUN, NOT_RUN)

# The papers whose claims are tested. The book is about the first; the counts are of its claims.
WORKS = {"yazdani2018": "Yazdani 2018", "agostinelli2014": "Agostinelli et al. 2014"}
THE_PAPER = "yazdani2018"

# Where a claim can be tested. The first that has enough epochs counts.
WHERE = {
    PAPER.name: PAPER.where,
    NARROW.name: NARROW.where,
    "gpu": "on a GPU",
    "processor": "on a processor",
}

# Numbers by name. Those without epochs are plain, or have an interval.
Found = Mapping[str, Measure | Estimate | float]
Numbers = Mapping[str, Mapping[str, Found]]  # by experiment and place in `WHERE`


@dataclass(frozen=True)
class Claim:
    """One claim of a paper, or a control of this book.

    Attributes:
        id: How files and the command line call it.
        name: How lists call it.
        work: The paper, a name in `WORKS`.
        kind: Whether the paper makes it, or this book adds it as a control.
        figure: The experiment that tests it.
        section: Of the paper.
        statement: What the paper says.
        paper: The paper's number or word.
        source: Where that comes from: the paper's text, a digitised figure, or inferred from it.
        tested: How it is tested, in words.
        epochs: Which epochs the test looks at, in words; "" for tests without epochs.
        measure: The measure that decides.
        unit: Of the measure.
        low: The least value of the measure with which the claim is reproduced.
        high: The largest one.
        least: By the place in `WHERE`, how many epochs the test needs at least; places that are
            left out cannot decide it.
        margin: How near to a bound the number decides nothing while it rests on fewer than three
            seeds.

    Raises:
        LbpError: If the bounds are missing or reversed, or a word is unknown.
    """

    id: str
    name: str
    work: str
    kind: Literal["paper", "control"]
    figure: str
    section: str
    statement: str
    paper: str
    source: Literal["text", "digitised", "inferred", "none"]
    tested: str
    epochs: str
    measure: str
    unit: str
    low: float
    high: float
    least: Mapping[str, int]
    margin: float = 0.0

    def __post_init__(self) -> None:
        hints = get_type_hints(Claim)
        for name in ("kind", "source"):
            check_choice(
                f"{name} of the claim {self.id}", getattr(self, name), get_args(hints[name])
            )
        check_choice(f"work of the claim {self.id}", self.work, WORKS)
        for place in self.least:
            check_choice(f"place of the claim {self.id}", place, WHERE)
        if self.margin < 0:
            raise LbpError(
                f"the claim {self.id} has the margin {self.margin}: at least 0 is needed"
            )
        if not self.low <= self.high or math.inf == -self.low == self.high:
            raise LbpError(f"the claim {self.id} has the bounds {self.low} to {self.high}")

    @property
    def is_of_the_paper(self) -> bool:
        """Whether the paper that the book is about makes it."""
        return self.kind == "paper" and self.work == THE_PAPER

    @property
    def is_of_another_paper(self) -> bool:
        """Whether another paper makes it."""
        return self.kind == "paper" and self.work != THE_PAPER

    @property
    def place(self) -> str:
        """The section, after the name of a paper that the book is not about; or whose control."""
        if self.kind == "control":
            return "this book's control"
        return self.section if self.work == THE_PAPER else f"{WORKS[self.work]}, {self.section}"


@dataclass(frozen=True)
class Verdict:
    """A claim, the word on it, and the number that it rests on.

    Attributes:
        claim: The claim.
        word: One of `WORDS`.
        value: The number found.
        where: The place that decided, in words; of a claim that is not yet decided, the place that
            is nearest to it.
        window: The first and the last epoch that the number rests on.
        interval: The 95 % confidence interval of the number, where it has one.
        needed: How many epochs the test needs, where there are fewer.
        beside: Where it cannot be told, the verdict of a later place that decides.
    """

    claim: Claim
    word: str
    value: float | None = None
    where: str = ""
    window: tuple[int, int] | None = None
    interval: tuple[float, float] | None = None
    needed: int | None = None
    beside: "Verdict | None" = None

    @property
    def share(self) -> float:
        """How much of the epochs that the test needs there is, from 0 to 1."""
        return self.window[1] / self.needed if self.window and self.needed else 1.0

    @property
    def found(self) -> str:
        """The number found, with its unit, and the one beside it; "-" if there is none."""
        number = "-"
        if self.value is not None and not math.isnan(self.value):
            number = f"{self.value:.3g} {self.claim.unit}".rstrip()
            if self.interval:
                number += f" ({self.interval[0]:.3g} to {self.interval[1]:.3g})"
        return f"{number}; {self.beside.where} {self.beside.found}" if self.beside else number

    @property
    def text(self) -> str:
        """The word, where it holds and which epochs it rests on; then the same of `beside`."""
        parts = [f"{self.word} {self.where}".rstrip()]
        if self.window:
            first, last = self.window
            over = f"epoch {last}" if first == last else f"epochs {first} to {last}"
            parts.append(f"{last} of {self.needed} epochs" if self.needed else over)
        text = ", ".join(parts)
        return f"{text}; {self.beside.text}" if self.beside else text


def load() -> list[Claim]:
    """Read data/claims.yml.

    Raises:
        LbpError: If the file is missing or damaged.
    """
    path = paths.claims()
    names = [field.name for field in fields(Claim)]
    text = files.read_text(path)
    try:
        claims = [_claim(entry, names) for entry in yaml.safe_load(text or "")]
    except (yaml.YAMLError, TypeError, AttributeError) as error:
        raise _damaged(path, " ".join(str(error).split())) from error
    if len({claim.id for claim in claims}) < len(claims):
        raise _damaged(path, "two claims have one id")
    return claims


def _claim(entry: Any, names: Iterable[str]) -> Claim:
    for name in entry:
        check_choice(f"field of the claim {entry.get('id')}", name, names)
    defaults = {"work": THE_PAPER, "low": -math.inf, "high": math.inf, "epochs": ""}
    return Claim(**defaults | entry)


def _damaged(path: Path, reason: str) -> LbpError:
    return LbpError(f"{path} is damaged ({reason}): restore it")


def judge(claim: Claim, found: Mapping[str, Found]) -> Verdict:
    """Return the verdict on a claim, by the first place that has enough epochs.

    If it cannot be told there, a later place that decides is named beside it. If none has enough,
    the claim is not yet decided; the place that has most of what it needs is named.

    Args:
        claim: The claim.
        found: The numbers of its experiment, by the place in `WHERE` and name.
    """
    numbers = {place: found.get(place, {}).get(claim.measure) for place in WHERE}
    judged = [
        _judge_at(place, number, claim)
        for place, number in numbers.items()
        if number is not None and place in claim.least
    ]
    enough = [verdict for verdict in judged if verdict.word != BEGUN]
    if not enough:
        begun = [verdict for verdict in judged if verdict.share > 0]
        return max(begun, key=lambda verdict: verdict.share, default=Verdict(claim, NOT_RUN))
    first, *later = enough
    if first.word != UNTOLD:
        return first
    return replace(first, beside=next((v for v in later if v.word != UNTOLD), None))


def _judge_at(place: str, number: Measure | Estimate | float, claim: Claim) -> Verdict:
    """Return the verdict on a claim by its number at one place."""
    where = WHERE[place]
    window = interval = None
    margin = 0.0
    if isinstance(number, Measure):
        window, needed = (number.first, number.last), claim.least[place]
        if number.last < needed:
            return Verdict(claim, BEGUN, number.value, where, window, needed=needed)
        margin = claim.margin if number.seeds < FEWEST_SEEDS else 0.0
        number = number.value
    elif isinstance(number, Estimate):
        if not math.isnan(number.low):
            interval = (number.low, number.high)
        number = number.value
    inside = claim.low <= number <= claim.high
    word = REPRODUCED if inside else NOT_REPRODUCED
    ends = interval or (number - margin, number + margin)
    if math.isnan(number) or any(ends[0] < bound < ends[1] for bound in (claim.low, claim.high)):
        word = UNTOLD
    return Verdict(claim, word, number, where, window, interval)


def judge_experiment(stem: str, found: Mapping[str, Found]) -> list[Verdict]:
    """Return the verdicts on one experiment's claims, given its numbers by place and name."""
    return [judge(claim, found) for claim in load() if claim.figure == stem]


def measure_all(store: Store | None = None) -> Numbers:
    """Compute Figure 1 (some seconds) and draw the other numbers from what is recorded."""
    load()  # a damaged file, or none, is told before anything is computed
    found: dict[str, Mapping[str, Found]] = {
        stem: {
            scale.name: experiment.measures(recorded(stem, scale, store))
            for scale in (PAPER, NARROW)
        }
        for stem, experiment in EXPERIMENTS.items()
    }
    found["cost"] = {name: cost.measures(cost.recorded(name)) for name in ("gpu", "processor")}
    result = fig1_synthetic.compute()
    found["fig1_synthetic"] = {PAPER.name: fig1_synthetic.measures(result)}
    return found


def verdicts(found: Numbers | None = None) -> list[Verdict]:
    """Return the verdict on every claim, in the order of the file."""
    found = measure_all() if found is None else found
    return [judge(claim, found.get(claim.figure, {})) for claim in load()]


SOURCES = {
    "text": "the paper's text",
    "digitised": "digitised from its figure",
    "inferred": "inferred from its figure",
    "none": "-",
}


def table(judged: Iterable[Verdict], *, details: bool = False) -> Table:
    """Return verdicts as a table.

    Args:
        judged: The verdicts.
        details: Whether to add the paper's number, its source, the bounds and the number found.
    """
    columns = ["place", "claim", "verdict"]
    if details:
        columns += ["paper", "source", "reproduced if", "found"]
    rows = []
    for verdict in judged:
        claim = verdict.claim
        row: list[Cell] = [claim.place, claim.statement, Badge(verdict.word, verdict.text)]
        if details:
            row += [claim.paper, SOURCES[claim.source], bounds(claim), verdict.found]
        rows.append(row)
    return Table("Each claim and its verdict.", columns, rows)


QUESTION = "Does the paper hold?"


def answers(judged: Sequence[Verdict]) -> list[str]:
    """Say how many of the paper's claims have each word, and which they are."""
    text = texts(judged)
    return [
        f"Of the paper's {text['claims']} claims that are tested here:",
        *(
            f"**{text[f'claims {word}']} {word}**: {text[f'names {word}']}."
            for word in WORDS
            if text[f"claims {word}"] != "0"
        ),
    ]


def bounds(claim: Claim) -> str:
    """Return a claim's bounds in words."""
    if claim.low == claim.high:
        return f"exactly {_with_unit(claim.low, claim)}"
    if claim.low == -math.inf:
        return f"at most {_with_unit(claim.high, claim)}"
    if claim.high == math.inf:
        return f"at least {_with_unit(claim.low, claim)}"
    return f"{claim.low:g} to {_with_unit(claim.high, claim)}"


def _with_unit(value: float, claim: Claim) -> str:
    """Return a number with the claim's unit; of one point it is the singular."""
    if abs(value) == 1 and claim.unit == "points":
        return f"{value:g} point"
    form = ".1f" if value == 1 and claim.unit.startswith("times") else "g"
    return f"{value:{form}} {claim.unit}".strip()


def tests_table() -> Table:
    """Return how each claim is tested."""
    rows = [
        [
            claim.name,
            claim.place,
            claim.tested,
            claim.epochs or "-",
            bounds(claim),
            _with_unit(claim.margin, claim) if claim.margin else "-",
        ]
        for claim in load()
    ]
    columns = ["claim", "place", "test", "epochs", "reproduced if", "margin"]
    return Table(
        "How each claim is tested. Within the margin around a bound, fewer than three seeds decide "
        "nothing.",
        columns,
        rows,
    )


def runs_table(store: Store | None = None) -> Table:
    """Return how much of each experiment is recorded."""
    rows = []
    for stem, experiment in EXPERIMENTS.items():
        cells = []
        for scale in (PAPER, NARROW):
            results = recorded(stem, scale, store)
            whole = sum(results.reached(goal) for goal in results.goals)
            begun = f"{len(results.records)} of {len(results.goals)} begun, {whole} complete"
            cells.append(begun if results.goals else "none planned")
        rows.append([experiment.TITLE, *cells])
    rows.append([cost.TITLE, *(_measured(name) for name in ("gpu", "processor"))])
    columns = ["experiment", PAPER.title, NARROW.title]
    return Table("How many runs are recorded.", columns, rows)


def seeds(store: Store | None = None) -> dict[str, str]:
    """Return, by name, a sentence on how many narrow runs have been repeated with another seed."""
    trained = {run for stem in EXPERIMENTS for run in recorded(stem, NARROW, store).records}
    counts = Counter(replace(run, seed=0) for run in trained)
    repeated = sum(count > 1 for count in counts.values())
    some = f"{repeated} of the {len(counts)} runs" if repeated else "No run"
    has = "has" if repeated < 2 else "have"
    return {
        "claims seeds": (
            f"{some} {NARROW.where} {has} been repeated with another seed, so a difference of a "
            f"few points may be chance. {SEED_DISTANCES}"
        )
    }


def _measured(name: str) -> str:
    return f"{len(cost.recorded(name))} of {len(cost.DEVICES[name].cases)} measured {WHERE[name]}"


def texts(judged: Sequence[Verdict]) -> dict[str, str]:
    """Return the counts that the book's prose inserts, by name."""
    words = [verdict.word for verdict in judged if verdict.claim.is_of_the_paper]
    found = {f"claims {word}": str(words.count(word)) for word in WORDS}
    for word in WORDS:
        found[f"names {word}"] = _names([v for v in judged if v.word == word])
    return found | {"claims": str(len(words))}


def _names(judged: Sequence[Verdict]) -> str:
    """List the paper's claims among verdicts, by the place that decided if one did."""
    names: dict[str, list[str]] = {}
    for verdict in judged:
        if verdict.claim.is_of_the_paper:
            beside = f": {verdict.beside.text}" if verdict.beside else ""
            names.setdefault(verdict.where, []).append(verdict.claim.name + beside)
    if set(names) <= {""}:
        return "; ".join(names.get("", ["none"]))
    return ", ".join(f"{len(here)} {where} ({'; '.join(here)})" for where, here in names.items())
