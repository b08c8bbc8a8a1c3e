"""Which operation breaks symmetry on this machine, and which is not even repeatable."""
