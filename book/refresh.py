"""Run the notebooks in place and refresh what the README shows of them: `make notebooks`.

Cell ids stay, and nothing is written that changes from run to run, so that a difference in version
control is a difference in what the code computes.
"""

import base64
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
README = ROOT / "README.md"
RERUN = ROOT / "book" / "rerun.md"
FIGURE = ROOT / "book" / "images" / "fig1.png"  # the README's figure ...
SOURCE = ("fig1_synthetic.ipynb", "fig1")  # ... and its notebook and name there


def strip(notebook: Any) -> None:
    """Remove what the machine and the moment leave in a notebook."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        for key in ("execution", "papermill", "ExecuteTime"):
            cell.metadata.pop(key, None)


def run(path: Path) -> None:
    """Execute a notebook in its own folder and write its outputs into it."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=3600,
        kernel_name="python3",
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
        record_timing=False,
        resources={"metadata": {"path": path.parent}},
    )
    client.execute()
    strip(notebook)
    nbformat.write(notebook, path)


def figure(path: Path, name: str) -> tuple[bytes, str]:
    """Return the PNG and the alt text of the figure that a notebook calls `name`."""
    for cell in nbformat.read(path, as_version=4).cells:
        mystnb = cell.metadata.get("mystnb", {})
        if mystnb.get("figure", {}).get("name") == name:
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    return base64.b64decode(output.data["image/png"]), mystnb["image"]["alt"]
    raise SystemExit(f"{path.name} has no figure named {name!r} with a PNG output")


def fill(text: str, name: str, content: str) -> str:
    """Replace what stands between a page's two comments of that name."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise SystemExit(f"a page needs one {begin!r} and one {end!r}")
    pattern = re.escape(begin) + ".*" + re.escape(end)
    return re.sub(pattern, lambda _: f"{begin}\n{content}\n{end}", text, flags=re.DOTALL)


def claims() -> str:
    """Return places, claims and verdicts, in the order of the claims page's tables."""
    lines = []
    for cell in nbformat.read(NOTEBOOKS / "claims.ipynb", as_version=4).cells:
        for output in cell.get("outputs", []):
            shown = output.get("data", {}).get("text/plain", "")
            if "| place | claim | verdict |" in shown:
                table = shown[shown.index("| place") :].splitlines()
                lines += table if not lines else table[2:]  # one head
    return "\n".join(" | ".join(line.split(" | ")[:3]) + " |" for line in lines)


def refreshed(text: str, alt: str) -> str:
    """Return the README's text with the current figure and tables."""
    sys.path.insert(0, str(ROOT))
    from lbp.experiments import places

    text = fill(text, "figure", f"![{alt}]({FIGURE.relative_to(ROOT).as_posix()})")
    text = fill(text, "places", places.places_table().markdown())
    return fill(text, "claims", claims())


def with_times(text: str) -> str:
    """Return the text of the page "Run it yourself" with the times on a free GPU."""
    sys.path.insert(0, str(ROOT))
    from lbp.experiments import free_gpu

    table = free_gpu.table()
    return fill(text, "gpu", f"\n{table.markdown()}\n\n*{table.caption}*\n")


def main() -> None:
    """Run every notebook, then rewrite the README's figure and tables, and the times on a GPU."""
    os.environ["PYTHONPATH"] = str(ROOT)
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        start = time.time()
        print(f"Running {path.name} ...", end=" ", flush=True)
        run(path)
        print(f"{time.time() - start:.0f} s")

    png, alt = figure(NOTEBOOKS / SOURCE[0], SOURCE[1])
    FIGURE.parent.mkdir(exist_ok=True)
    FIGURE.write_bytes(png)
    README.write_text(refreshed(README.read_text(), alt))
    RERUN.write_text(with_times(RERUN.read_text()))
    import pictures  # needs this tree's lbp, like the tables

    pictures.draw(pictures.STATIC)
    print(
        f"Refreshed {FIGURE.relative_to(ROOT)}, what is drawn from it, README.md and book/rerun.md"
    )


if __name__ == "__main__":
    main()
