"""``mfrun statics``: sub-networks sampled from a trained network (Section 4.1 and Appendix B).

A sub-network of n neurons a layer, drawn from the measure that a trained network is, differs from the whole by

    E |yhat_n - yhat| = O(sum_l n_l^-1/2)      (Eq. 66)

and its expected loss exceeds the whole network's by at most a multiple of that (Eq. 64). With the states that
``keep_checkpoints`` keeps, both rates are followed through training. The other half of Section 4.1, behind Eq. (54), is
exact: a finite network and the particle system of its own empirical measure have one expected loss.
"""

from __future__ import annotations

import argparse
import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mfrun.dynamics.experiment import Experiment, load_into, restore
from mfrun.errors import UserError
from mfrun.networks.dense import Dense
from mfrun.networks.operations import Product
from mfrun.problems.problem import Evaluation
from mfrun.runs.directory import RunDirectory, find_runs
from mfrun.runs.directory import newest as newest_folder
from mfrun.study import style
from mfrun.study.power_law import power_law
from mfrun.study.subnetworks import empirical_measure, in_float64, subnetworks
from mfrun.study.written import write

# Column of the table, what it is called in print and in a picture, the power of n that it should fall with.
QUANTITIES = (
    ("difference", "E|yhat_n - yhat|", r"$E|\hat y_n - \hat y|$", 0.5),
    ("loss_gap", "gap in expected loss", "gap in expected loss", 1.0),
)

POINT = "#2a5d9f"


def main(args: argparse.Namespace) -> int:
    """Entry point of the command."""
    widths = _widths(args.widths)
    if args.run is None and not args.latest:
        raise UserError("no run named; give its folder, or --latest")
    if args.run is not None and args.latest:
        raise UserError(f"--latest: and {args.run} names another; give one of them")
    run = RunDirectory(newest_folder(sweeps=False) if args.latest else args.run)
    asked = _step(args.step)
    if not run.exists():
        inside = ", ".join(str(one.path) for one in find_runs(run.path))
        raise UserError(f"{run.path}: no run, and statics takes one; here are {inside}")
    experiment, whole, newest = restore(run, asked if isinstance(asked, int) else None)
    # A subclass may connect its neurons in another way.
    network = whole.parts[0]
    if type(network) is not Dense:
        raise UserError(f"{run.path}: sub-networks are drawn from dense networks")
    if not experiment.scaling.is_mean_field:
        raise UserError(f"{run.path}: its scaling is not mean_field; its layers are no measures to draw from")
    if network.trained or not isinstance(network.operation, Product):
        raise UserError(f"{run.path}: sub-networks are drawn where neuron=bias and operation=product")
    steps = run.saved_steps() if asked == "all" else [newest]
    samples = list(experiment.problem.evaluation(experiment.cfg.seed.eval, args.samples).values())[-1]
    frames = []
    for step in steps:
        load_into(whole, run, step)
        frames.append(measure(experiment, network, samples, widths, args.draws, args.seed))
        frames[-1].insert(0, "step", step)
        frames[-1].insert(1, "t", step * experiment.cfg.alpha)
    frame = pd.concat(frames, ignore_index=True)
    when = f"step {steps[0]}" if len(steps) == 1 else f"{len(steps)} states, steps {steps[0]} to {steps[-1]}"
    print(f"{run.path}, {when}: sub-networks of n neurons a layer against the whole, {args.draws} draws each")
    if len(steps) == 1:
        print(frame.drop(columns=["step", "t"]).to_string(index=False, float_format="{:.3g}".format))
        for column, words, _, _ in QUANTITIES:
            f = rate(frame, column)
            print(f"{words} ~ n^-{f[0]:.2f} [{f[1]:.2f}, {f[2]:.2f}]" if f else f"{words}: no rate to be told")
        figure = _at_one_step(frame)
    else:
        followed = rates(frame)
        print("rates r in ~ n^-r, with their 95 % intervals")
        print(_text(followed))
        figure = _through_training(frame, followed)
    types, own, of_measure = identity(experiment, network, samples, widths[-1], args.seed)
    print(
        f"Eq. (54): a network of n = {widths[-1]} drawn at step {steps[-1]} has expected loss {own:.6g}, its empirical "
        f"measure ({', '.join(map(str, types))} types) the same to {abs(own - of_measure):.1g}"
    )
    write(Path(args.out) if args.out else run.path, {"statics": frame}, figure, args.format)
    return 0


@dataclass
class Outputs:
    """Outputs (S, n_out, samples) and average losses (S,), float64."""

    yhat: Tensor
    loss: Tensor


def outputs(experiment: Experiment, network: Dense, samples: Evaluation) -> Outputs:
    """What a network says on a set of samples."""
    parts, losses = [], torch.zeros(network.replicates, dtype=torch.float64)
    for x, y in samples:
        yhat = network.forward(x.to(network.W[0].dtype), network.workspace(len(x), backward=False))
        yhat = yhat.view(network.replicates, network.n_out, -1)
        losses += experiment.loss.value(y, yhat).sum(-1, dtype=torch.float64).cpu()
        parts.append(yhat.double().cpu())
    return Outputs(torch.cat(parts, -1), losses / samples.count)


def measure(
    experiment: Experiment, network: Dense, samples: Evaluation, widths: list[int], draws: int, seed: int
) -> pd.DataFrame:
    """For each n: the mean over samples and draws of |yhat_n - yhat|, and of the loss less the whole's.

    The draws are split evenly over the replicates, alike for every n.

    Returns:
        A row for each n, with standard errors over the draws.
    """
    whole = outputs(experiment, network, samples)
    # Rows of other networks for other n would have a rate that is no network's.
    ends = [draws * member // network.replicates for member in range(network.replicates + 1)]
    rows = []
    for n in widths:
        # One at a time where they are large: the weights of a draw are n^2 numbers a layer.
        group = max(1, min(draws, 2**22 // n**2))
        differences, gaps = [], []
        for member, (start, end) in enumerate(itertools.pairwise(ends)):
            for first in range(start, end, group):
                some = subnetworks(network, member, n, min(group, end - first), seed, first)
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
    law = power_law(used["n"].tolist(), used[column].tolist())
    return -law.exponent, -law.high, -law.low


def rates(frame: pd.DataFrame) -> pd.DataFrame:
    """The rates at every step, a row each: COLUMN_rate, COLUMN_low and COLUMN_high, NaN where none can be told."""
    rows = []
    for step, part in frame.groupby("step"):
        row: dict[str, object] = {"step": step, "t": part["t"].iloc[0]}
        for column, *_ in QUANTITIES:
            values = rate(part, column) or (math.nan,) * 3
            row |= {f"{column}_{name}": v for name, v in zip(("rate", "low", "high"), values, strict=True)}
        rows.append(row)
    return pd.DataFrame(rows).astype({"step": int})


def identity(
    experiment: Experiment, network: Dense, samples: Evaluation, n: int, seed: int
) -> tuple[list[int], float, float]:
    """Eq. (54) put to the test, in float64.

    Returns:
        The number of types in each layer of a drawn network's empirical measure; the expected loss of the network; that
        of the measure.
    """
    drawn = subnetworks(network, 0, n, 1, seed)
    system = empirical_measure(drawn, 0)
    losses = [float(outputs(experiment, one, samples).loss[0]) for one in (in_float64(drawn, 0), system)]
    return system.widths, losses[0], losses[1]


def _text(followed: pd.DataFrame) -> str:
    """The rates of :func:`rates` for the terminal."""
    rows = []
    for row in followed.to_dict("records"):
        cells = {"step": row["step"], "t": f"{row['t']:.4g}"}
        for column, words, _, _ in QUANTITIES:
            r, low, high = (row[f"{column}_{name}"] for name in ("rate", "low", "high"))
            cells[words] = "-" if math.isnan(r) else f"{r:.2f} [{low:.2f}, {high:.2f}]"
        rows.append(cells)
    return pd.DataFrame(rows).to_string(index=False)


@style.styled
def _at_one_step(frame: pd.DataFrame) -> Figure:
    figure, axes = style.panels(1, 2, width=3.3, height=2.7)
    for ax, (column, _, title, _) in zip(axes[0], QUANTITIES, strict=True):
        ax.errorbar(
            frame["n"], frame[column], 1.96 * frame[f"{column}_se"], fmt="o", color=POINT, markersize=4, capsize=2
        )
        _against_n(ax, frame, column, title)
        ax.legend(fontsize=7)
    return figure


@style.styled
def _through_training(frame: pd.DataFrame, followed: pd.DataFrame) -> Figure:
    """A column for each quantity: against n, a line for each state, and below it the rate against t."""
    figure, axes = style.panels(2, 2, width=3.6, height=2.6)
    steps = followed["step"].tolist()
    shades = mpl.colormaps["viridis"](np.linspace(0.0, 0.92, len(steps)))
    named = {steps[i] for i in np.linspace(0, len(steps) - 1, min(len(steps), 6)).round().astype(int)}
    for above, below, (column, _, title, power) in zip(axes[0], axes[1], QUANTITIES, strict=True):
        for step, shade in zip(steps, shades, strict=True):
            part = frame[frame["step"] == step]
            shown = part[column].where(part[column] > 2 * part[f"{column}_se"].fillna(0))
            label = f"$t = {part['t'].iloc[0]:.3g}$" if step in named and column == "difference" else None
            above.plot(part["n"], shown, "o-", color=shade, markersize=2.5, linewidth=1, label=label)
        _against_n(above, frame[frame["step"] == steps[-1]], column, title)
        r = followed[f"{column}_rate"]
        reach = np.array([r - followed[f"{column}_low"], followed[f"{column}_high"] - r])
        below.errorbar(followed["t"], r, reach, fmt="none", ecolor="0.6", elinewidth=1, capsize=2)
        below.scatter(followed["t"], r, c=shades, s=16, zorder=3)
        below.axhline(power, color="0.4", linestyle="--" if power == 0.5 else ":", linewidth=1)
        positive = followed["t"][followed["t"] > 0]
        # Logarithmic, with room for t = 0.
        first = float(positive.min()) if len(positive) else 1.0
        below.set_xscale("symlog", linthresh=first, linscale=0.5)
        below.set_xlim(-0.4 * first, 2 * max(followed["t"].max(), first))
        below.set(title="rate $r$ in $\\sim n^{-r}$", xlabel=r"time $t = k\alpha$")
    style.beside(figure, axes[0][0].get_legend_handles_labels()[0])
    return figure


def _against_n(ax: Axes, frame: pd.DataFrame, column: str, title: str) -> None:
    """The axes of a quantity against n, with the two powers to compare it to."""
    n = frame["n"].to_numpy(dtype=float)
    first = abs(float(frame[column].iloc[0])) or 1.0
    for power, line in ((0.5, "--"), (1.0, ":")):
        label = "$n^{-1/2}$" if power == 0.5 else "$n^{-1}$"
        ax.plot(n, first * (n / n[0]) ** -power, color="0.6", linestyle=line, linewidth=1, label=label, zorder=1)
    if (frame[column] > 0).all():
        style.log_scale(ax, "y")
    style.log_ticks(ax, n.tolist())
    ax.set(title=title, xlabel="$n$")


def _widths(text: str) -> list[int]:
    try:
        widths = sorted({int(w) for w in text.split(",")})
    except ValueError as error:
        raise UserError(f"--widths {text}: a list of whole numbers, as in 16,32,64") from error
    if widths[0] < 1:
        raise UserError(f"--widths {text}: a width is at least 1")
    return widths


def _step(text: str) -> int | str:
    """``newest``, ``all``, or the step that a number names."""
    if text in ("newest", "all"):
        return text
    if not text.isdecimal():
        raise UserError(f"--step {text}: the step of a saved state, or all")
    return int(text)
