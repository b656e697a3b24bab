"""``mfrun statics``: sub-networks sampled from a trained network (Section 4.1 and Appendix B).

Any trained network is a measure: its layer l has neurons of types i with probabilities p_l,i. Drawing n neurons of each
layer i.i.d. from p_l and keeping their mutual weights, W_l[j, i] = the entry of the two types drawn, gives the finite
network of Appendix B.2. Its output differs from the whole network's by

    E |yhat_n - yhat| = O(sum_l n_l^-1/2)      (Eq. 66)

and its expected loss exceeds the whole network's by at most a multiple of that (Eq. 64).
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.stats
import torch
from torch import Tensor

from mfrun.errors import UserError
from mfrun.experiment import Experiment, restore
from mfrun.networks.dense import Dense, Workspace
from mfrun.networks.measures import Measure
from mfrun.problems.problem import Evaluation
from mfrun.run import RunDirectory
from mfrun.seeds import generator
from mfrun.study import style


def main(argv: list[str]) -> int:
    """Entry point of the command."""
    args = parser().parse_args(argv)
    widths = _widths(args.widths)
    run = RunDirectory(args.run)
    experiment, network, step = restore(run)
    if not isinstance(network, Dense):
        raise UserError(f"{run.path}: sub-networks are drawn from dense networks")
    samples = list(experiment.problem.evaluation(experiment.cfg.seed.eval, args.samples).values())[-1]
    frame = measure(experiment, network, samples, widths, args.draws, args.seed)
    out = Path(args.out) if args.out else run.path
    frame.to_csv(out / "statics.csv", index=False)
    print(f"{run.path}, step {step}: sub-networks of n neurons a layer against the whole, {args.draws} draws each")
    print(frame.to_string(index=False, float_format="{:.3g}".format))
    for column, words in (("difference", "E|yhat_n - yhat|"), ("loss_gap", "gap in expected loss")):
        f = rate(frame, column)
        print(f"{words} ~ n^-{f[0]:.2f} [{f[1]:.2f}, {f[2]:.2f}]" if f else f"{words}: no rate to be told")
    _figure(frame, out / f"statics.{args.format}")
    print(f"\n{out / 'statics.csv'}\n{out / f'statics.{args.format}'}")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = argparse.ArgumentParser(
        "mfrun statics",
        description="Draw sub-networks of n neurons a layer from a trained network, and measure how far their outputs "
        "and their loss are from its own: Section 4.1 and Appendix B of the paper predict n^-1/2.",
    )
    p.add_argument("run", metavar="RUN", help="folder of a run: n = infinity, or a wide network")
    p.add_argument("--widths", default="16,32,64,128,256,512", help="comma-separated n (16,32,64,128,256,512)")
    p.add_argument("--draws", type=int, default=32, help="sub-networks for each n (32)")
    p.add_argument("--samples", type=int, default=1000, help="evaluation samples (1000)")
    p.add_argument("--seed", type=int, default=0, help="of the draws (0)")
    p.add_argument("--out", metavar="DIR", help="folder for statics.csv and the figure (the run's own)")
    p.add_argument("--format", choices=style.FORMATS, default="png", help="of the figure (png)")
    return p


@dataclass
class Outputs:
    """Outputs (S, n_out, samples) and average losses (S,), float64."""

    yhat: Tensor
    loss: Tensor


def subnetworks(network: Dense, member: int, n: int, draws: int, seed: int) -> Dense:
    """Sub-networks of n neurons a layer, drawn i.i.d. from the layers' measures (Appendix B.2).

    Args:
        network: the whole.
        member: which of its replicates (or particle sets) to draw from.
        n: neurons in each hidden layer.
        draws: how many sub-networks, stacked.
        seed: of the draws.
    """
    chosen = []
    for l, neurons in enumerate(network.widths, 1):
        p = network.p[l].probabilities(neurons, member)
        g = generator("sub-networks", seed, n, l)
        chosen.append(torch.multinomial(p, draws * n, replacement=True, generator=g).view(draws, n))
    W = [network.W[0][member][chosen[0]]]
    for l in range(1, len(chosen)):
        W.append(network.W[l][member][chosen[l].unsqueeze(2), chosen[l - 1].unsqueeze(1)])
    W.append(network.W[-1][member][:, chosen[-1]].movedim(0, 1).contiguous())
    b = None
    if network.b is not None:
        b = [v[member][c] for v, c in zip(network.b, chosen, strict=False)]
        b.append(network.b[-1][member].expand(draws, -1, -1).contiguous())
    return Dense(W, b, [Measure.uniform(n)] * len(chosen), network.activation)


def outputs(experiment: Experiment, network: Dense, samples: Evaluation) -> Outputs:
    """What a network says on a set of samples."""
    parts, losses = [], torch.zeros(network.replicates, dtype=torch.float64)
    for x, y in samples:
        yhat = network.forward(x, Workspace(network, len(x), backward=False))
        yhat = yhat.view(network.replicates, network.n_out, -1)
        losses += experiment.loss.value(y, yhat).sum(-1, dtype=torch.float64).cpu()
        parts.append(yhat.double().cpu())
    return Outputs(torch.cat(parts, -1), losses / samples.count)


def measure(
    experiment: Experiment, network: Dense, samples: Evaluation, widths: list[int], draws: int, seed: int
) -> pd.DataFrame:
    """For each n: the mean over samples and draws of |yhat_n - yhat|, and of the loss less the whole's.

    Returns:
        A row for each n, with standard errors over the draws.
    """
    whole = outputs(experiment, network, samples)
    rows = []
    for n in widths:
        # One at a time where they are large: the weights of a draw are n^2 numbers a layer.
        group = max(1, min(draws, 2**22 // n**2))
        differences, gaps = [], []
        for first in range(0, draws, group):
            member = (first // group) % network.replicates
            some = subnetworks(network, member, n, min(group, draws - first), seed + first)
            part = outputs(experiment, some, samples)
            differences.append((part.yhat - whole.yhat[member]).abs().mean((1, 2)))
            gaps.append(part.loss - whole.loss[member])
        difference, gap = torch.cat(differences), torch.cat(gaps)
        row: dict[str, float] = {"n": n}
        for name, values in (("difference", difference), ("loss_gap", gap)):
            row[name] = float(values.mean())
            row[f"{name}_se"] = float(values.std() / math.sqrt(draws)) if draws > 1 else math.nan
        rows.append(row)
    return pd.DataFrame(rows).astype({"n": int})


def rate(frame: pd.DataFrame, column: str) -> tuple[float, float, float] | None:
    """r in column ~ n^-r with its 95 % interval (of the line's residuals); None with fewer than three usable widths."""
    # A gap that is not above its own noise says nothing about the rate.
    used = frame[frame[column] > 2 * frame[f"{column}_se"].fillna(0)]
    if len(used) < 3:
        return None
    line = scipy.stats.linregress(np.log(used["n"]), np.log(used[column]))
    half = float(scipy.stats.t.ppf(0.975, len(used) - 2) * line.stderr)
    return -float(line.slope), -float(line.slope) - half, -float(line.slope) + half


def _figure(frame: pd.DataFrame, file: Path) -> None:
    figure, axes = style.panels(1, 2, width=3.3, height=2.7)
    n = frame["n"].to_numpy(dtype=float)
    panels = (("difference", r"$E|\hat y_n - \hat y|$"), ("loss_gap", "gap in expected loss"))
    for ax, (column, name) in zip(axes[0], panels, strict=True):
        ax.errorbar(n, frame[column], 1.96 * frame[f"{column}_se"], fmt="o", color="#2a5d9f", markersize=4, capsize=2)
        first = abs(float(frame[column].iloc[0])) or 1.0
        for power, line in ((0.5, "--"), (1.0, ":")):
            label = "$n^{-1/2}$" if power == 0.5 else "$n^{-1}$"
            ax.plot(n, first * (n / n[0]) ** -power, color="0.6", linestyle=line, linewidth=1, label=label)
        if (frame[column] > 0).all():
            ax.set_yscale("log")
        style.log_ticks(ax, n.tolist())
        ax.set(title=name, xlabel="$n$")
        ax.legend(fontsize=7)
    style.save(figure, file)


def _widths(text: str) -> list[int]:
    try:
        widths = sorted({int(w) for w in text.split(",")})
    except ValueError as error:
        raise UserError(f"--widths {text}: a list of whole numbers, as in 16,32,64") from error
    if widths[0] < 1:
        raise UserError(f"--widths {text}: a width is at least 1")
    return widths
