"""Which letters are right on the networks that users bring: see `benchmarks/foreign/`.

`python benchmarks/coverage.py` runs what of the list is not done yet; `--report` writes docs/coverage.md.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Hand on to the command line, found as benchmarks.foreign: a file here must not hide a package of its name."""
    sys.path[0] = str(ROOT)
    from benchmarks.foreign.command import main as command

    command()


if __name__ == "__main__":
    main()
