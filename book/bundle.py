"""Pack the notebooks and the data that they read, _build/lbp-notebooks.zip: `make zip`.

The same files always give the same bytes: nothing is compressed, as compressors differ.
"""

from pathlib import Path
from zipfile import ZipFile, ZipInfo

import yaml
from build import BUILD, ROOT, files

NAME = "lbp-notebooks"
DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip file can hold
README = """\
The notebooks of the book "{title}", and the data that they read.{source}

They need the project's library. In an environment with Python 3.11 or newer:

    pip install 'CLONE[book]' jupyterlab
    jupyter lab notebooks

CLONE is the folder of a clone of the project. The notebooks read the data beside them; where the
library is installed with --editable, they read the clone's.
"""


def readme() -> bytes:
    """Return what a reader needs to know first."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    url = config["repository"]["url"]
    source = f"\nThe project: {url}" if url else ""
    return README.format(title=config["title"], source=source).encode()


def contents() -> dict[str, bytes]:
    """Return the content of each file."""
    found = {"README.txt": readme(), "_toc.yml": (ROOT / "_toc.yml").read_bytes()}
    return found | dict(files("notebooks", "*.ipynb")) | dict(files("data"))


def write(path: Path) -> None:
    """Write the zip file."""
    with ZipFile(path, "w") as archive:
        for name, content in sorted(contents().items()):
            entry = ZipInfo(f"{NAME}/{name}", DATE)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)


def main() -> None:
    """Write the zip file beside the book."""
    BUILD.mkdir(exist_ok=True)
    path = BUILD / f"{NAME}.zip"
    write(path)
    print(f"The notebooks and their data: {path}")


if __name__ == "__main__":
    main()
