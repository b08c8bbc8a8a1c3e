"""`symbreak audit`: which operations break symmetry, and which are not repeatable, on this machine."""
