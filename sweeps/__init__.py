"""The commands of `symbreak`: runs, sweeps, audits, comparisons, reports and more."""
