"""One run: its command, its folder, and its logger and callbacks."""
