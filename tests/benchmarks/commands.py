"""A command of symbreak in a process of its own: seconds and peak memory."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = """
import re, sys, time
from pathlib import Path
begun = time.perf_counter()
from symbreak.sweeps.cli import main
code = main(sys.argv[1:])
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())  # of this program, not its parent
print("seconds and GB:", time.perf_counter() - begun, int(peak[1]) * 1024 / 1e9)
sys.exit(code)
"""


def run_measured(*words: object) -> tuple[float, float]:
    """Run `symbreak WORDS`; return its wall time in seconds and its peak resident memory in GB."""
    command = [sys.executable, "-c", SCRIPT, *map(str, words)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    seconds, peak = map(float, done.stdout.split("seconds and GB:")[1].split())
    return seconds, peak
