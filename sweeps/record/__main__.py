"""`python -m symbreak.sweeps.record [FOLDER]`: rewrite the README of a folder of records from its claims."""

import sys
from pathlib import Path

from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.record.claims import write_readme

if __name__ == "__main__":
    try:
        print(write_readme(Path(*sys.argv[1:2] or ["sweeps/results"])))
    except UsageError as error:
        sys.exit(f"symbreak record: error: {error}")
