"""The paper's claims and their verdicts, computed from data.

The claims are in data/claims.yml: each names a measure of a figure, and the bounds within which the
measure must lie for the claim to count as reproduced.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

import yaml

from lbp import cost_records, measures, synthetic
from lbp.errors import LbpError, check_choice
from lbp.paths import CLAIMS
from lbp.reproduce import recorded
from lbp.store import Store

REPRODUCED = "reproduced"
REDUCED = "reproduced at reduced scale only"
NOT_REPRODUCED = "not reproduced"
NOT_RUN = "not yet run"
VERDICTS = (REPRODUCED, REDUCED, NOT_REPRODUCED, NOT_RUN)

# Measures by figure, scale ("paper" or "cpu") and name.
Measures = Mapping[str, Mapping[str, Mapping[str, float]]]


@dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    Raises:
        LbpError: If the bounds are missing or reversed, or a scale is unknown.
    """

    id: str
    figure: str  # fig1, ...: whose measures test it
    section: str  # of the paper
    statement: str  # what the paper says
    paper: str  # the paper's number or word
    tested: str  # how it is tested, in words
    measure: str
    unit: str
    low: float  # reproduced if low <= measure <= high
    high: float
    scales: tuple[str, ...] = ("paper",)  # at which the test means something

    def __post_init__(self) -> None:
        for scale in self.scales:
            check_choice(f"scale of the claim {self.id}", scale, ("paper", "cpu"))
        if not self.low <= self.high or math.inf == -self.low == self.high:
            raise LbpError(f"the claim {self.id} has the bounds {self.low} to {self.high}")


@dataclass(frozen=True)
class Verdict:
    """A claim, the word on it, and the number and scale that it rests on."""

    claim: Claim
    word: str
    value: float | None = None
    scale: str | None = None

    @property
    def found(self) -> str:
        """The number found, with its unit and scale; "-" if there is none."""
        if self.value is None:
            return "-"
        unit = f" {self.claim.unit}" if self.claim.unit else ""
        return f"{self.value:.3g}{unit}{' (reduced scale)' if self.scale == 'cpu' else ''}"


def load() -> list[Claim]:
    """Read data/claims.yml.

    Raises:
        LbpError: If the file is damaged.
    """
    names = [field.name for field in fields(Claim)]
    try:
        entries = yaml.safe_load(CLAIMS.read_text("utf-8"))
        claims = []
        for entry in entries:
            for name in entry:
                check_choice(f"field of the claim {entry.get('id')}", name, names)
            bounds = {"low": -math.inf, "high": math.inf}
            scales = tuple(entry.get("scales", ["paper"]))
            claims.append(Claim(**bounds | entry | {"scales": scales}))
    except (OSError, yaml.YAMLError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise LbpError(f"{CLAIMS} is damaged ({reason}): restore it") from error
    if len({claim.id for claim in claims}) < len(claims):
        raise LbpError(f"{CLAIMS} is damaged (two claims have one id): restore it")
    return claims


def judge(claim: Claim, found: Measures) -> Verdict:
    """Return the verdict on a claim, by the paper's scale if it was run, else the reduced one."""
    for scale in ("paper", "cpu"):
        value = found.get(claim.figure, {}).get(scale, {}).get(claim.measure)
        if value is None or scale not in claim.scales:
            continue
        if not claim.low <= value <= claim.high:
            return Verdict(claim, NOT_REPRODUCED, value, scale)
        return Verdict(claim, REPRODUCED if scale == "paper" else REDUCED, value, scale)
    return Verdict(claim, NOT_RUN)


def judge_figure(figure: str, found: Mapping[str, Mapping[str, float]]) -> list[Verdict]:
    """Return the verdicts on one figure's claims, given its measures by scale and name."""
    return [judge(claim, {figure: found}) for claim in load() if claim.figure == figure]


def measure_all(store: Store | None = None) -> dict[str, dict[str, dict[str, float]]]:
    """Compute Figure 1 (some seconds) and draw the other figures' measures from the store."""
    found = {"fig1": {"paper": synthetic.measures(synthetic.figure1())}}
    for figure, measure in measures.BY_FIGURE.items():
        found[figure] = {s: measure(recorded(figure, s, store)) for s in ("paper", "cpu")}
    found["cost"] = {s: measures.cost(cost_records.recorded(s)) for s in ("paper", "cpu")}
    return found


def verdicts(found: Measures | None = None) -> list[Verdict]:
    """Return the verdict on every claim, in the order of the file."""
    found = measure_all() if found is None else found
    return [judge(claim, found) for claim in load()]


def markdown_table(judged: Iterable[Verdict] | None = None, *, details: bool = False) -> str:
    """Return the table figure - claim - verdict in Markdown.

    Args:
        judged: The verdicts; by default all, computed now.
        details: Whether to add the paper's number and the number found.
    """
    head = ["figure", "claim", "verdict"] + ["paper", "found"] * details
    rows = [head, ["---"] * len(head)]
    for verdict in verdicts() if judged is None else judged:
        claim = verdict.claim
        figure = claim.figure.replace("fig", "Figure ").replace("-", " ")
        row = [figure, claim.statement, f"**{verdict.word}**"]
        rows.append(row + [claim.paper, verdict.found] * details)
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in rows)
