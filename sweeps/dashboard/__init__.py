"""W&B workspaces and reports."""
