"""``mfrun plot --weights``: how the law of the neurons moves in training, the paper's rho_t, from kept states.

Two marginals of it are drawn: the norm |w| of a neuron's weights in the first layer, and its output weights beta in the
last. On isotropic Gaussians the problem is the same in all directions, and the law of |w| is the radial part of rho_t.
Those of a finite network are its neurons, each counted once; those of n = infinity, and of what stands for a width, are
its particles and points, each with its weight p. In a panel every law of one setting is smoothed by one Gaussian
kernel, so that no difference between two widths is the smoothing's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.interpolate
import scipy.stats
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mfrun.dynamics.experiment import load_into, restore
from mfrun.errors import UserError
from mfrun.networks.network import Network
from mfrun.runs.directory import RunDirectory
from mfrun.runs.progress import say
from mfrun.study import style
from mfrun.study.curves import Curve, is_limit

Array = NDArray[np.float64]
# States that are shown where --steps does not name them.
COLUMNS = 4
APART = 3.0
# Points of a continuous law that stand for its quadrature nodes.
REFINED = 512
# Inches of a panel.
SIZE = (2.5, 2.2)
TITLES = {"norm": "$|w|$, first layer", "beta": r"output weights $\beta$"}


@dataclass(frozen=True)
class Atoms:
    """A law on the real line.

    Attributes:
        points: where it sits.
        p: their probabilities, with sum 1.
    """

    points: Array
    p: Array

    @staticmethod
    def pooled(values: Array, p: Array) -> Atoms:
        """From values (..., K) of neurons with the measure p (..., K) or (K,); the leading axes weigh the same."""
        weights = np.broadcast_to(p, values.shape).ravel()
        return Atoms(values.ravel(), weights / weights.sum())

    def spread(self) -> float:
        """Standard deviation, or where it is smaller the interquartile range in units of a normal law's."""
        low, high = self.quantile(0.25), self.quantile(0.75)
        robust = (high - low) / (2 * scipy.stats.norm.ppf(0.75))
        deviation = math.sqrt(np.average((self.points - np.average(self.points, weights=self.p)) ** 2, weights=self.p))
        return min(deviation, robust) or deviation

    def quantile(self, u: float) -> float:
        """The least value at which the distribution function reaches ``u``."""
        order = np.argsort(self.points)
        reached = np.searchsorted(np.cumsum(self.p[order]), u * (1 - 1e-12))
        return float(self.points[order][min(int(reached), len(order) - 1)])

    def density(self, x: Array, kernel: float) -> Array:
        """Density at ``x``, smoothed by a Gaussian kernel of standard deviation ``kernel``."""
        own = math.sqrt(float(np.cov(self.points, aweights=self.p)))
        return scipy.stats.gaussian_kde(self.points, kernel / own, weights=self.p)(x)


def figure(curves: list[Curve], looks: list[dict[str, Any]], steps: str | None, size: tuple[float, float]) -> Figure:
    """A row for each marginal and a column for each state that all curves have.

    Args:
        curves: one line each.
        looks: how they are drawn.
        steps: comma-separated steps of the states; by default the first, the last, and some between them.
        size: inches of a panel.

    Raises:
        UserError: a state is missing, or there is none in common.
    """
    chosen = _steps(curves, steps)
    marginals = [laws(curve, chosen) for curve in curves]
    picture, axes = style.panels(len(TITLES), len(chosen), width=size[0], height=size[1])
    fewest = min(len(law[name][0].points) for law in marginals for name in TITLES)
    for row, (name, title) in zip(axes, TITLES.items(), strict=True):
        every = [law[name] for law in marginals]
        shown = np.concatenate([[a.quantile(0.002), a.quantile(0.998)] for atoms in every for a in atoms])
        margin = 0.06 * float(np.ptp(shown))
        x = np.linspace(shown.min() - margin, shown.max() + margin, 600)
        for column, (ax, step) in enumerate(zip(row, chosen, strict=True)):
            # Silverman's rule for the widest law of a setting with as few neurons as the smallest network has.
            widest: dict[str, float] = {}
            for atoms, curve in zip(every, curves, strict=True):
                key = repr(curve.setting)
                widest[key] = max(widest.get(key, 0.0), atoms[column].spread())
            for atoms, curve, look in zip(every, curves, looks, strict=True):
                kernel = 0.9 * widest[repr(curve.setting)] * max(fewest, 100) ** -0.2
                _draw(ax, atoms[column], x, kernel, look | {"zorder": 10.0 if is_limit(curve) else 2.0})
            if name == next(iter(TITLES)):
                ax.set_title(f"$t = {curves[0].times()[step]:.3g}$ (step {step})" if step else "$t = 0$")
            ax.set(xlabel=title, yticks=[])
            ax.set_ylim(bottom=0)
        row[0].set_ylabel("density")
    return picture


def _draw(ax: Any, law: Atoms, x: Array, kernel: float, look: dict[str, Any]) -> None:
    if np.ptp(law.points) <= 1e-6 * (abs(law.points[0]) + 1e-300) or kernel == 0:
        # One value for all neurons has no density.
        ax.axvline(law.points[0], **look)
    else:
        ax.plot(x, law.density(x, kernel), **look)


def _steps(curves: list[Curve], asked: str | None) -> list[int]:
    """The steps of the states to show."""
    common = sorted(set.intersection(*(set(s.run.saved_steps()) for c in curves for s in c.sources)))
    if not common:
        raise UserError("--weights: no step of which all runs have a state; keep_checkpoints= keeps some for good")
    if asked is None:
        # From the end back, where the law moves most, and the start.
        apart = common[-1:]
        for k in reversed(common[:-1]):
            if len(apart) < COLUMNS - 1 and 0 < k <= apart[0] / APART:
                apart.insert(0, k)
        return sorted({common[0], *apart})
    chosen = []
    for word in asked.split(","):
        if not word.isdigit() or int(word) not in common:
            raise UserError(f"--steps {word}: no such state; all runs have those of {', '.join(map(str, common))}")
        chosen.append(int(word))
    return chosen


def laws(curve: Curve, steps: list[int]) -> dict[str, list[Atoms]]:
    """The marginals of one curve at every step, its runs pooled."""
    runs = [s.run for s in curve.sources]
    parts = [_limit(run, steps) if is_limit(curve) else _finite(run, steps) for run in runs]
    return {
        name: [
            Atoms(np.concatenate([a.points for a in same]), np.concatenate([a.p for a in same]) / len(same))
            for same in zip(*(part[name] for part in parts), strict=True)
        ]
        for name in TITLES
    }


def _finite(run: RunDirectory, steps: list[int]) -> dict[str, list[Atoms]]:
    """Every neuron counts once, so that the saved arrays say all; what stands for many counts as they would."""
    laws: dict[str, list[Atoms]] = {name: [] for name in TITLES}
    cfg = run.config()
    depth, p, units = int(cfg.depth), [np.ones(1), np.ones(1)], (1.0, 1.0)
    if cfg.get("neurons") or cfg.scaling.name != "mean_field":
        experiment, network, _ = restore(run, steps[0])
        p = [network.probabilities(l).numpy() for l in (1, depth - 1)]
        # What is saved is the mean field network; the weights of another scaling are in units of its own.
        every = experiment.scaling.factors(network.widths).units
        units = every[0], every[-1]
    for step in steps:
        found = run.load_state(say, step)
        if found is None:
            raise UserError(f"{run.path}: no whole state of step {step}")
        laws["norm"].append(Atoms.pooled(units[0] * _norms(found[0]["W1"]), p[0]))
        laws["beta"].append(_betas(units[1] * found[0][f"W{depth}"].double(), p[1]))
    return laws


def _limit(run: RunDirectory, steps: list[int]) -> dict[str, list[Atoms]]:
    """Every particle counts with its weight p."""
    laws: dict[str, list[Atoms]] = {name: [] for name in TITLES}
    experiment, whole, _ = restore(run, steps[0])
    # The sets alone: in their union the nodes of two rules stand beside one another.
    network, start, depth = whole.parts[-1], experiment.network().parts[-1], experiment.cfg.depth
    init, sets = experiment.blueprint.init, range(network.replicates)
    scale = float(experiment.cfg.architecture.get("output_scale", 1.0))

    def measure(l: int) -> Array:
        found: Array = network.probabilities(l).numpy()
        return found

    for step in steps:
        load_into(whole, run, step)
        arrays = network.state()
        laws["norm"].append(Atoms.pooled(_norms(arrays["W1"]), measure(1)))
        beta = arrays[f"W{depth}"].double().cpu()
        p = measure(depth - 1)
        if network.p[depth - 1].weights is not None and beta[0].numel() == p.shape[1]:
            moved = [
                refined(*nodes, lambda u: scale * init.output(torch.from_numpy(init.entries.quantile(u))).numpy())
                for nodes in _nodes(start, network, depth, p)
            ]
            laws["beta"].append(
                Atoms(np.concatenate([a.points for a in moved]), np.concatenate([a.p for a in moved]) / len(sets))
            )
        else:
            laws["beta"].append(_betas(beta, p))
    return laws


def _nodes(start: Network, network: Network, depth: int, p: Array) -> list[tuple[Array, Array, float]]:
    """Quadrature nodes of beta with one initial bias and theta each: (beta at step 0, beta now, their probability)."""
    groups = []
    before, now = (n.state()[f"W{depth}"].double().cpu().numpy() for n in (start, network))
    others = [start.state().get(f"{name}{depth - 1}") for name in ("b", "theta")]
    for s in range(len(p)):
        rest = [array[s].double().cpu().numpy().reshape(p.shape[1], -1) for array in others if array is not None]
        _, of = np.unique(np.column_stack([np.zeros(p.shape[1]), *rest]), axis=0, return_inverse=True)
        for value in np.unique(of[p[s] > 0]):
            here = (of == value) & (p[s] > 0)
            start_here, now_here, p_here = before[s].ravel()[here], now[s].ravel()[here], p[s][here]
            # A label that an initial law adds repeats the nodes of beta, once for each of its own.
            repeated = pd.Series(start_here).groupby(start_here).cumcount().to_numpy()
            for k in np.unique(repeated):
                of_label = repeated == k
                groups.append((start_here[of_label], now_here[of_label], float(p_here[of_label].sum())))
    return groups


def refined(before: Array, now: Array, p: float, quantile: Callable[[Array], Array]) -> Atoms:
    """The law that quadrature nodes stand for: the initial law, moved by the flow that the nodes have followed.

    Args:
        before: the nodes at step 0.
        now: where they are.
        p: their probability together.
        quantile: inverse distribution function of the initial law.
    """
    order = np.argsort(before)
    initial = quantile((np.arange(REFINED) + 0.5) / REFINED)
    flow = scipy.interpolate.PchipInterpolator(before[order], now[order])
    return Atoms(flow(initial), np.full(REFINED, p / REFINED))


def _betas(beta: torch.Tensor, p: Array) -> Atoms:
    """All output weights (S, n_out, K, ...) of neurons with the measure p (S, K), or (1,) where they weigh the same."""
    spatial = (1,) * (beta.dim() - 3)
    return Atoms.pooled(beta.movedim(2, -1).numpy(), p.reshape(*p.shape[:-1], 1, *spatial, -1))


def _norms(W1: Any) -> Array:
    """|w| of every neuron, (S, n_1), from W_1 of shape (S, n_1, ...)."""
    return W1.double().flatten(2).norm(dim=-1).cpu().numpy()
