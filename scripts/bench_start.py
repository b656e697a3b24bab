"""Seconds from the shell to the first row of a sweep of tiny networks, of this checkout and of others, in turns.

    python scripts/bench_start.py [CHECKOUT ...]

The one environment runs the code of every checkout. The sweep is killed at its first row.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
WORDS = ["dataset=gaussians", "depth=3", "steps=1000000"]


def first_row(checkout: Path, words: list[str]) -> float:
    """Seconds until a run of the sweep has written its first row."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mfrun", "sweep", *WORDS, *words, "dir=s"]
        env = {**os.environ, "PYTHONPATH": str(checkout)}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        begin = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=env, start_new_session=True, **quiet)
        while not any(f.read_text().count("\n") > 1 for f in Path(folder, "s").glob("*/metrics.csv")):
            if process.poll() is not None:
                sys.exit(f"{checkout}: the sweep has ended by itself")
            time.sleep(0.002)
        seconds = time.perf_counter() - begin
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(Path(folder, "s"), ignore_errors=True)
    return seconds


def main() -> None:
    """Print medians, and their ratio to this checkout's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs="*", type=Path)
    parser.add_argument("--times", type=int, default=7, help="of each (7)")
    args = parser.parse_args()
    checkouts = [HERE, *(c.resolve() for c in args.checkouts)]
    seeds = ",".join(map(str, range(16)))
    for name, words in (
        ("4 widths", ["widths=[10,20,40,80]"]),
        ("4 widths, one of them inf", ["widths=[10,20,40,inf]"]),
        ("64 runs", ["widths=[10,20,40,80]", f"seed.init={seeds}"]),
    ):
        seconds: dict[Path, list[float]] = {c: [] for c in checkouts}
        for _ in range(args.times):
            for checkout in checkouts:
                seconds[checkout].append(first_row(checkout, words))
        medians = {c: statistics.median(s) for c, s in seconds.items()}
        told = ", ".join(f"{c.name} {m:.2f} s ({medians[HERE] / m:.2f})" for c, m in medians.items())
        print(f"{name}: {told}", flush=True)


if __name__ == "__main__":
    main()
