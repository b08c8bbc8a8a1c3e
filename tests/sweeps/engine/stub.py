"""Stands in for a training run: writes the run folder's files, and does what its arguments say."""

import json
import os
import signal
import sys
import time
from pathlib import Path

folder = Path(os.environ["SYMBREAK_RUN_DIR"])
arguments = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:] if "=" in word)
steps, x = int(arguments.get("steps", 2)), float(arguments.get("x", 0))
with Path(os.environ.get("STUB_LOG") or folder.parents[2] / "started.txt").open("a") as log:
    print(folder.name, file=log)
state = {"started": "2026-01-01T00:00:00+00:00", "status": "running", "output_layers": ["head"]}
(folder / "run.json").write_text(json.dumps(state))
(folder / "config.yaml").write_text(f"trainer: {{max_steps: {steps}}}")
if arguments.get("fail") == "True":
    sys.exit("the run gave up")
if arguments.get("die") == "once" and not (folder.parent / "died").exists():
    (folder.parent / "died").touch()
    os.kill(os.getpid(), signal.SIGKILL)
with (folder / "metrics.csv").open("w") as history:
    print("step,loss", file=history)
    for step in range(steps):
        summary = {"step": step + 1, "loss": x + 1 / (step + 1), "test/accuracy": 0.5}
        print(f"{step},{summary['loss']}", file=history, flush=True)
        (folder / "summary.new").write_text(
            json.dumps(summary | {"symmetry/distinct_filters/conv": 1, "symmetry/distinct_filters/head": 10})
        )
        (folder / "summary.new").rename(folder / "summary.json")
        time.sleep(float(arguments.get("seconds", 0)))
(folder / "run.json").write_text(json.dumps(state | {"status": "finished"}))
