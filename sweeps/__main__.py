"""`python -m symbreak.sweeps` is `symbreak`."""

import sys

from symbreak.sweeps.cli import main

sys.exit(main())
