"""One run: its command, its folder and what writes to it."""
