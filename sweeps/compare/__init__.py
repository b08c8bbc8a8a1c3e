"""`symbreak compare`: how far runs are apart."""
