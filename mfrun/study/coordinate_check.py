"""``mfrun check``: how the sizes of a network's arrays, and their changes in a step, depend on n.

The coordinate check of Yang et al. (arXiv 2203.03466, Appendix D.1): networks of several widths take a few steps of
SGD, and the root mean square (RMS) over neurons, samples and initialisations of

    h_l, a_l, W_l         the pre-activations, their images under sigma and the weights of layer l; h_{L+1} = yhat
    the change of each    from one step to the next

is held against n. Under the mean field scaling none of them depends on n for large n (Section 3.1 of the paper).
Samples are a fixed set that does not change from step to step. Weights are those of the scaling's own notation, see
:mod:`mfrun.networks.scaling`.

A scaling is a statement about the response to any error signal dL/dyhat of order 1. Steps therefore follow random
signals, the same for all widths: the one of the loss may cancel (a softmax's sums to 0 over the classes, and the output
weights of all classes have one mean mu2, so that nothing below layer L moves at first in the limit, under any scaling).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.lines import Line2D
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from mfrun import config
from mfrun.dynamics.experiment import Experiment, Problems, assemble
from mfrun.dynamics.labels import SAMPLES, labels, limit_of, samples_of
from mfrun.errors import ConfigError, UserError
from mfrun.runs.progress import say
from mfrun.seeds import generator
from mfrun.shell import commandline, hydra
from mfrun.shell.compose import compose, folder
from mfrun.study import kinds, style
from mfrun.study.power_law import PowerLaw, power_law

# What the check trains where the command line says nothing else.
DEFAULTS = ["widths=[32,64,128,256,512]", "steps=8", "replicates=16", "dtype=float64"]
# Wrong scalings are off by factors n^(1/2) or n: an exponent nearer to 0 than to 1/2 is that of a quantity of order 1.
TOLERANCE = 0.25
NAMES = {"h": "pre-activations $h_l$", "a": "outputs $a_l$", "W": "weights $W_l$"}
FINE = ("O(1)", "zero", "starts at 0")
# The command's own flag, beside Hydra's: follow the loss's error signal.
TRAIN = "--train"


def main(argv: list[str]) -> int:
    """Entry point of the command.

    Returns:
        0 where every quantity of every layer is of order 1, else 1.
    """
    train = TRAIN in argv
    flags, given = commandline.split([a for a in argv if a != TRAIN])
    overrides = commandline.over(DEFAULTS, given)
    if hydra.only_prints("check", [*overrides, *flags]):
        return 0
    for o in commandline.parse(overrides):
        if o.is_sweep_override():
            raise UserError(f"{o.input_line}: several values; one check is of one setting")
        if o.key_or_group == "width":
            raise ConfigError("width", o.value(), "the check compares widths=[...]")
    node = compose(overrides, flags)
    place = folder(node)
    experiments = assemble_widths(node)
    cfg = experiments[0].cfg
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    frames = []
    for experiment in experiments:
        frames.append(pd.DataFrame(measure(experiment, train)))
        say(f"n={experiment.cfg.width}  {cfg.steps} steps of {cfg.replicates} networks")
    steps = pd.concat(frames, ignore_index=True)
    found = judge(steps)

    place.mkdir(parents=True, exist_ok=True)
    steps.to_csv(place / "check_steps.csv", index=False)
    table(found).to_csv(place / "check.csv", index=False)
    # The law of entries that are i.i.d. is called after itself.
    init = cfg.init.get("law", cfg.init["name"]) if cfg.init["name"] == "iid" else cfg.init["name"]
    what = f"scaling={cfg.scaling['name']}, dataset={cfg.dataset['name']}, init={init}"
    print(f"{what}: RMS over neurons, {SAMPLES} samples, {cfg.replicates} networks and steps 0 to {cfg.steps}")
    print(text(found))
    limit = limit_of(experiments[0])
    spread = kinds.effective(experiments, limit)
    spread.rename(columns=config.width_label).to_csv(place / "check_types.csv")
    print("\n" + kinds.text(spread, labels(experiments[0], limit)))
    _figure(found, f"Coordinate check, {what}", place / "check.png")
    files = ("check.csv", "check_steps.csv", "check_types.csv", "check.png")
    print("\n" + "\n".join(str(place / name) for name in files))
    return 0 if all(q.verdict in FINE for q in found) else 1


def assemble_widths(node: DictConfig) -> list[Experiment]:
    """An experiment for each of the configuration's ``widths``, in ascending order.

    Raises:
        ConfigError: fewer than three widths, an infinite one, no steps, or what a run would refuse.
    """
    cfg = config.validated(node)
    labels = f"[{','.join(map(config.width_label, cfg.widths))}]"
    if math.inf in cfg.widths:
        raise ConfigError("widths", labels, "the check is about finite widths")
    if len(set(cfg.widths)) < 3:
        raise ConfigError("widths", labels, "a power of n is fitted to at least three widths")
    if cfg.neurons is not None:
        raise ConfigError("neurons", cfg.neurons, "the check is about real networks; null")
    if cfg.steps < 1:
        raise ConfigError("steps", cfg.steps, "changes from step to step need at least one")
    experiments, problems = [], Problems()
    for n in sorted(set(cfg.widths)):
        cfg = config.validated(OmegaConf.merge(node, {"width": n}))  # type: ignore[arg-type]
        experiments.append(assemble(cfg, problems(cfg)))
    return experiments


# -- measuring -------------------------------------------------------------------------------------------------------


def measure(experiment: Experiment, train: bool = False) -> Iterator[dict[str, float | int | str]]:
    """Take the steps of one width, and yield the RMS of every quantity before each step and at the end.

    Args:
        experiment: the width, with the data and the rates.
        train: follow the loss's error signal, not a random one.

    Yields:
        ``n``, ``step``, ``layer`` (1 .. L + 1), ``quantity`` (``h``, ``a`` or ``W``), its ``rms``, and ``change``, the
        RMS of its difference from the step before (NaN at step 0).
    """
    cfg, network = experiment.cfg, experiment.network()
    stream = experiment.stream()
    x0 = samples_of(experiment)
    seen, ws = network.workspace(len(x0)), network.workspace(cfg.batch)
    rates = experiment.rates.of_layers(0, cfg.steps)
    units, L = experiment.scaling.factors(network.widths).units, len(network.widths)
    before: dict[tuple[str, int], Tensor] = {}
    for k in range(cfg.steps + 1):
        now = {("h", L + 1): network.forward(x0, seen).clone()}
        for l in range(1, L + 1):
            now |= {("h", l): seen.h[l - 1].clone(), ("a", l): seen.a[l - 1].clone()}
        weights = network.state()
        now |= {("W", l): weights[f"W{l}"] * unit for l, unit in enumerate(units, 1)}
        for (quantity, layer), array in now.items():
            change = _rms(array - before[quantity, layer]) if before else math.nan
            row: dict[str, float | int | str] = {"n": int(cfg.width), "step": k, "layer": layer, "quantity": quantity}
            yield row | {"rms": _rms(array), "change": change}
        before = now
        if k < cfg.steps:
            x, y = stream.batch(k)
            yhat = network.forward(x, ws)
            if train:
                D = experiment.loss.gradient(y, yhat)
            else:
                signal = torch.randn(yhat.shape[-2:], generator=generator("error signal", cfg.seed.data, k))
                D = signal.to(yhat).expand_as(yhat).contiguous()
            network.descend(x, D, [r / cfg.batch for r in rates[k]], ws)


def _rms(array: Tensor) -> float:
    return float(array.double().square().mean().sqrt())


# -- judging ---------------------------------------------------------------------------------------------------------


@dataclass
class Quantity:
    """One quantity of one layer against n.

    Attributes:
        layer: 1 .. L + 1.
        output: whether this is layer L + 1.
        name: ``h``, ``a`` or ``W``.
        change: whether it is the change in a step.
        sizes: RMS over the steps by n.
        law: its power of n.
        verdict: ``O(1)``, ``vanishing``, ``exploding``, ``zero`` where nothing is there at any width, or ``starts at
            0``, see :func:`judge`.
    """

    layer: int
    output: bool
    name: str
    change: bool
    sizes: dict[int, float]
    law: PowerLaw
    verdict: str

    @property
    def words(self) -> str:
        """``W``, ``change of yhat``."""
        name = "yhat" if self.output and self.name == "h" else self.name
        return f"change of {name}" if self.change else name

    @property
    def clear(self) -> bool:
        """Whether the exponent's interval leaves no doubt about the verdict."""
        return not any(self.law.low < edge < self.law.high for edge in (-TOLERANCE, TOLERANCE))


def judge(steps: pd.DataFrame) -> list[Quantity]:
    """The quantities of every layer, layer by layer, from what :func:`measure` has yielded for all widths.

    A size that vanishes while its change does not is 0 in the limit at the start, by a symmetry (an odd sigma of
    symmetric pre-activations), and of order 1 as soon as it has moved. So is the change of W_l ~ D_l a_{l-1}^T above an
    a_{l-1} of that kind, where it falls no faster than a_{l-1}.
    """
    found = []
    for layer in sorted(steps["layer"].unique()):
        for change in (False, True):
            for name in NAMES:
                rows = steps[(steps["layer"] == layer) & (steps["quantity"] == name)]
                rows = rows[rows["step"] > 0] if change else rows
                if rows.empty:
                    continue
                sizes = {
                    int(n): math.sqrt(np.square(group["change" if change else "rms"].to_numpy()).mean())
                    for n, group in rows.groupby("n")
                }
                law, verdict = verdict_of(sizes)
                output = layer == steps["layer"].max()
                found.append(Quantity(int(layer), output, name, change, sizes, law, verdict))
    moving = {(q.layer, q.name) for q in found if q.change and q.verdict in ("O(1)", "exploding")}
    below = {}
    for q in found:
        if q.verdict == "vanishing" and not q.change and (q.layer, q.name) in moving:
            q.verdict = "starts at 0"
            below[q.layer + 1, q.name] = q.law.exponent
    for q in found:
        slowest = below.get((q.layer, "a"), math.inf) - TOLERANCE
        if q.verdict == "vanishing" and q.change and q.name == "W" and q.law.exponent > slowest:
            q.verdict = "starts at 0"
    return found


def verdict_of(sizes: dict[int, float]) -> tuple[PowerLaw, str]:
    """The power of n behind sizes by n, and what it says.

    A quantity that is nowhere finite at large n explodes, one that is 0 at the largest n vanishes. In between the
    fitted exponent decides: within ``TOLERANCE`` of 0 the quantity is O(1). So is one that tends to a constant other
    than 0: what falls away, like n^-1/2, bends the line only where n is small.
    """
    finite = {n: v for n, v in sizes.items() if math.isfinite(v)}
    positive = {n: v for n, v in finite.items() if v > 0}
    law = power_law(list(positive), list(positive.values()))
    if len(finite) < len(sizes):
        return law, "exploding"
    if not positive:
        return law, "zero"
    if max(positive) < max(sizes) or law.exponent < -TOLERANCE:
        return law, "vanishing"
    return law, "exploding" if law.exponent > TOLERANCE else "O(1)"


# -- showing ---------------------------------------------------------------------------------------------------------


def table(found: list[Quantity]) -> pd.DataFrame:
    """One row for each layer and quantity: exponent, its interval, verdict, and the sizes by n."""
    rows = []
    for q in found:
        row: dict[str, object] = {"layer": q.layer, "quantity": q.words, "verdict": q.verdict}
        row |= {"exponent": q.law.exponent, "exponent_low": q.law.low, "exponent_high": q.law.high}
        rows.append(row | {f"n={n}": v for n, v in q.sizes.items()})
    return pd.DataFrame(rows)


def text(found: list[Quantity]) -> str:
    """The table for the terminal, and a verdict for each layer."""
    lines = [f"{'':<18}" + "".join(f"{f'n={n}':>9}" for n in found[0].sizes) + f"  {'exponent [95 %]':<24}verdict"]
    layers = sorted({q.layer for q in found})
    titles = {l: f"layer {l}" if l < layers[-1] else "output" for l in layers}
    for l in layers:
        lines.append(titles[l])
        for q in (q for q in found if q.layer == l):
            law = f"{q.law.exponent:.2f} [{q.law.low:.2f}, {q.law.high:.2f}]" if not math.isnan(q.law.low) else "-"
            doubt = "" if q.clear else "?"
            sizes = "".join(f"{v:>9.2g}" for v in q.sizes.values())
            lines.append(f"  {q.words:<16}{sizes}  {law:<24}{q.verdict}{doubt}")
    lines.append("")
    for l in layers:
        lines.append(f"{titles[l]:<8} {_of_layer([q for q in found if q.layer == l])}")
    if not all(q.clear for q in found):
        lines.append(f"? the interval holds -{TOLERANCE} or {TOLERANCE}: more widths or replicates= would tell")
    return "\n".join(lines)


def _of_layer(quantities: list[Quantity]) -> str:
    """``O(1)``, or what is wrong."""
    wrong = [
        f"{verdict}: {', '.join(q.words for q in quantities if q.verdict == verdict)}"
        for verdict in ("exploding", "vanishing")
        if any(q.verdict == verdict for q in quantities)
    ]
    return "; ".join(wrong) or "O(1)"


@style.styled
def _figure(found: list[Quantity], title: str, file: Path) -> None:
    """A panel for each quantity, a line for each layer; crosses where it is not O(1)."""
    figure, axes = style.panels(2, len(NAMES), width=2.7, height=2.3)
    layers = sorted({q.layer for q in found})
    colours = dict(zip(layers, mpl.colormaps["viridis"](np.linspace(0, 0.88, len(layers))), strict=True))
    for row, change in zip(axes, (False, True), strict=True):
        for ax, (name, words) in zip(row, NAMES.items(), strict=True):
            shown = [q for q in found if (q.name, q.change) == (name, change)]
            for q in shown:
                positive = {n: v for n, v in q.sizes.items() if 0 < v < math.inf}
                fine = q.verdict in FINE
                # Lower layers are broader, so that they show where lines lie on one another.
                broad = 1.2 + 0.9 * min(layers[-1] - q.layer, 4)
                look = {"marker": "o", "markersize": broad + 3} if fine else {"marker": "x", "markersize": 6}
                look |= {"color": colours[q.layer], "linewidth": broad, "linestyle": "-" if fine else "--"}
                ax.plot(list(positive), list(positive.values()), **look)
            style.log_scale(ax, "y")
            style.log_ticks(ax, [float(n) for n in found[0].sizes])
            # Two decades at least: on a narrower axis a constant would look like a power.
            low, high = ax.get_ylim()
            spare = max(0.0, 2 - math.log10(high / low)) / 2
            ax.set_ylim(low / 10**spare, high * 10**spare)
            ax.set_title(f"change of {words.split()[-1]} in a step" if change else words)
            ax.set_xlabel("$n$" if change else "")
    entries = [Line2D([], [], color=colours[l], label="output" if l == layers[-1] else f"layer {l}") for l in layers]
    entries.append(Line2D([], [], color="0.4", marker="x", linestyle="--", label="not O(1)"))
    figure.legend(handles=entries, loc="outside right center")
    figure.suptitle(title)
    style.save(figure, file)
