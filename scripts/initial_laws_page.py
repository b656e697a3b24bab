"""The tables of docs/initial_laws.md, from the sweeps of scripts/initial_laws.sh.

    python scripts/initial_laws_page.py outputs/laws

For each sweep: when networks come below a test loss, where they end, how far they are from the limit of their law, and
how many types their layers have in effect. What has not been trained is left out.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import pandas as pd

from mfrun.dynamics.experiment import restore
from mfrun.dynamics.labels import labels, limit_of
from mfrun.study.convergence import study
from mfrun.study.curves import Curve, is_limit, load, unseen_loss

# Steps at which gaps and types are listed, as far as a sweep has come to them.
STEPS = (100, 316, 1000, 3000, 3162, 10000, 30000)


def main() -> None:
    """Print the tables of what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the sweeps")
    parser.add_argument("--level", type=float, default=1.0, help="of the loss, whose first passage is told")
    args = parser.parse_args()
    for sweep in sorted({f.parent for f in args.folder.rglob("sweep.yaml")}):
        curves = [c for c in load([str(sweep)], latest=False)[0] if finished(c)]
        if len(curves) > 1:
            print(f"\n{sweep.relative_to(args.folder)}")
            print(ends(curves, args.level).to_string(index=False))
            print(gaps(curves))
            print(types(curves))
            print(seen(curves))


def finished(curve: Curve) -> bool:
    return all(source.run.status()["state"] == "finished" for source in curve.sources)


def ends(curves: list[Curve], level: float) -> pd.DataFrame:
    """First passage of the level (median over starts; a step of the grid), and the last loss and error."""
    loss, rows = unseen_loss(curves), []
    for c in curves:
        values, errors = c.table(loss), c.table(loss.replace("_loss", "_error"))
        passed = [float((v < level).idxmax()) if (v < level).any() else math.inf for _, v in values.items()]
        bar = c.bar(loss)
        spread = values.iloc[-1].std() if bar is None else bar.iloc[-1]
        row = {
            "n": c.label,
            "starts": values.shape[1],
            f"below {level:g} at": np.median(passed),
            "step": values.index[-1],
        }
        row |= {"loss": f"{values.iloc[-1].mean():.4g} +- {spread:.2g}", "error %": 100 * errors.iloc[-1].mean()}
        rows.append(row)
    return pd.DataFrame(rows).round(2)


def gaps(curves: list[Curve]) -> str:
    """Gap of one network to the limit, and its rate over the run with its interval."""
    s = study(curves, unseen_loss(curves), 0.05, absolute=False)
    lines = []
    for g in s.gaps:
        at = ", ".join(f"{g.one_at(k):.2g} at {k}" for k in STEPS if k in g.differences.index)
        horizon = g.horizon(s.tolerance)
        left = "never leaves" if horizon is None else f"leaves at step {horizon[0]}"
        lines.append(f"  gap n = {int(g.width)}: {at}; {left}")
    one, mean = s.fit_one, s.fit_mean
    rates = (f"{f.rate:.2f} [{f.low:.2f}, {f.high:.2f}]" for f in (one, mean))
    return "\n".join([*lines, "  rate of one network {}, of the mean {}".format(*rates)])


def types(curves: list[Curve]) -> str:
    """Effective number of types of every layer, where kernels were taken down."""
    lines = []
    for c in curves:
        of = [m for m in c.metrics() if m.startswith("types_")]
        if of:
            table = pd.DataFrame({m: c.table(m).mean(axis=1) for m in of})
            at = "; ".join(
                f"{k}: {', '.join(f'{v:.3g}' for v in table.loc[k])}" for k in (0, *STEPS) if k in table.index
            )
            lines.append(f"  types n = {c.label}, layers 1 to {len(of)}, at step {at}")
    return "\n".join(lines)


def seen(curves: list[Curve]) -> str:
    """The width from which the labels of the start are more than the chance of the neurons below."""
    limit = next((c for c in curves if is_limit(c)), None)
    if limit is None:
        return ""
    experiment, _, _ = restore(limit.sources[0].run)
    found = labels(experiment, limit_of(experiment))
    told = ", ".join(f"layer {one.layer}: n = {one.needed():.0f} (signal {one.signal:.2g})" for one in found)
    return f"  labels are seen from {told}" if found else "  no labels"


if __name__ == "__main__":
    main()
