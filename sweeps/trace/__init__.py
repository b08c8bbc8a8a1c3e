"""Find the operation that breaks a run's symmetry, or the first one whose bits differ when the run is repeated."""
