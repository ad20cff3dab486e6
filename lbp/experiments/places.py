"""Where each place of the paper is reproduced: the table "place in the paper -> experiment"."""

from typing import Any

from lbp.experiments import EXPERIMENTS, cost, fig1_synthetic, own_model, rule_atlas
from lbp.experiments.table import Table


def places_table() -> Table:
    """Return the place in the paper, the title and the name of every experiment."""
    found: dict[str, Any] = {"fig1_synthetic": fig1_synthetic, **EXPERIMENTS}
    found |= {"cost": cost, "own_model": own_model, "rule_atlas": rule_atlas}
    ordered = sorted(found.items(), key=lambda item: _order(item[1].PLACE))
    rows = [
        [module.PLACE, module.TITLE, f"[`{stem}`](notebooks/{stem}.ipynb)"]
        for stem, module in ordered
    ]
    return Table("Experiments.", ["place in the paper", "what it is", "name"], rows)


def _order(place: str) -> tuple[int, str]:
    """Sections come first, then appendices, then what the paper does not have."""
    return (
        place.startswith("appendix") + 2 * (not place.startswith(("section", "appendix"))),
        place,
    )
