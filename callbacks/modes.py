"""Names of the determinism modes."""

from typing import Literal

Mode = Literal["nondeterministic", "cudnn", "strict"]
