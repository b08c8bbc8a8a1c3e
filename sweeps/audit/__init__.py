"""Which operation breaks symmetry on this machine, and which is not even repeatable."""

from symbreak.sweeps.audit.cases import Case, Finding
from symbreak.sweeps.audit.command import Audit, audit

__all__ = ["Audit", "Case", "Finding", "audit"]
