"""Which operation breaks the symmetry of a run, and which one first gives other bits when it is repeated."""
