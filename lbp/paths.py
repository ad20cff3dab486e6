"""Where the project keeps its files."""

from pathlib import Path

# The checkout, in which the package lies; elsewhere (a wheel) the current folder.
_CHECKOUT = Path(__file__).resolve().parents[1]
ROOT = _CHECKOUT if (_CHECKOUT / "_toc.yml").is_file() else Path.cwd()
RESULTS = ROOT / "data" / "results"
CHECKPOINTS = ROOT / "data" / "checkpoints"
CLAIMS = ROOT / "data" / "claims.yml"
COST = ROOT / "data" / "cost"
PAPER_CURVES = ROOT / "data" / "paper" / "figures.csv"
