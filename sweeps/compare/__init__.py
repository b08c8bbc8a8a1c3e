"""`symbreak compare`: differences between runs."""
