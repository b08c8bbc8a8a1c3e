"""The sweep file, its search space and its points."""
