"""The options of the commands that read runs, apart from what carries them out, which takes a second to import."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from mfrun.errors import UserError

# Formats of pictures.
FORMATS = ("png", "pdf", "svg")


class Options(argparse.ArgumentParser):
    """Those of a command; what it does not understand it says in one line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # argparse takes numbers below 0 for values, and a range from one, -5,100, for a flag.
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.removeprefix('argument ')}; {self.prog} --help lists the options")


def _folder(text: str) -> str:
    """A folder that is there, so that a mistyped one is answered at once."""
    if not Path(text).exists():
        raise UserError(f"{text}: no such folder")
    return text


def _number(text: str) -> int:
    """How many of something."""
    try:
        count = int(text)
    except ValueError:
        count = 0
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text}: a whole number from 1 on")
    return count


def _between(low: float, high: float) -> Callable[[str], float]:
    """A number of a range, beyond which a picture cannot be seen or is too much for the memory."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text}: a number from {low:g} to {high:g}")
        return value

    return number


class _Once(argparse.Action):
    """An option whose second value would not be an addition, as another option's may lead one to think."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        if getattr(namespace, self.dest) is not None:
            raise argparse.ArgumentError(self, f"{values}: is given twice, and takes one key")
        setattr(namespace, self.dest, values)


def _folders(p: argparse.ArgumentParser, newest: str) -> None:
    """Folders of runs, by name or as the newest of a kind."""
    p.add_argument("paths", nargs="*", type=_folder, metavar="RUN_OR_SWEEP", help="folders of runs or sweeps")
    p.add_argument("--latest", action="store_true", help=f"the newest {newest} below outputs/ (or below a folder)")


def _beside_a_prediction(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--predict", type=_folder, metavar="FOLDER", help="lay it beside what `mfrun predict` has said there"
    )


def _folder_to_write(text: str) -> str:
    """A folder that a command makes; what ends like a picture is meant as a file."""
    if Path(text).suffix.lstrip(".").lower() in (*FORMATS, "csv"):
        raise UserError(f"--out {text}: names a folder, for a table and a figure; --format is the figure's")
    return text


def _table_and_figure(p: argparse.ArgumentParser, name: str, owner: str) -> None:
    """Where a command writes NAME.csv and its figure: by default in the folder of what it has read."""
    p.add_argument(
        "--out",
        metavar="DIR",
        type=_folder_to_write,
        help=f"of {name}.csv and the figure (the {owner}'s; of several, .)",
    )
    p.add_argument("--format", choices=FORMATS, default="png", help="of the figure (png)")


def plot() -> Options:
    """Those of ``mfrun plot``."""
    p = Options(
        "mfrun plot",
        description="Overlay learning curves: colour for the width n, line style for whatever else differs, mean and "
        "one standard deviation over replicates and seeds. The limit is black and dashed, with its 95 % error band. "
        "Or, with --weights, how the law of the neurons moves in training.",
    )
    _folders(p, "run or sweep")
    p.add_argument("--metrics", help="comma-separated columns of metrics.csv; nonpositive means all of its layers")
    p.add_argument("--weights", action="store_true", help="densities of the weights at the states that were kept")
    p.add_argument("--steps", metavar="K,K,...", help="of --weights: the states; up to four by default")
    p.add_argument("--widths", help="comma-separated widths to draw; all by default")
    p.add_argument("--se", action="store_true", help="also 1.96 standard errors of the evaluation's samples, dotted")
    _beside_a_prediction(p)
    p.add_argument("--facet", action=_Once, metavar="KEY", help="a row of panels for each value of this key")
    p.add_argument("--style", action="append", metavar="KEY", help="draw only these keys' differences as line styles")
    p.add_argument("--x", choices=("step", "t"), default="step", help="horizontal axis (step)")
    p.add_argument("--xscale", choices=("log", "linear"), default="log", help="(log)")
    p.add_argument("--yscale", action="append", metavar="[METRIC=]log|linear", help="of all panels or of one (linear)")
    p.add_argument("--xlim", metavar="A,B", help="horizontal range")
    p.add_argument("--ylim", action="append", metavar="[METRIC=]A,B", help="vertical range of all panels or of one")
    p.add_argument("--size", metavar="W,H", help="inches of a panel (2.9,2.5)")
    p.add_argument("--font-size", type=_between(1, 100), metavar="PT", help="(9)")
    p.add_argument("--dpi", type=_between(10, 2400), help="of a .png (200)")
    p.add_argument("--style-file", metavar="FILE", help="a style of matplotlib, by name or file, over mfrun's own")
    p.add_argument("--title", help="above all panels; a preset's own by default")
    p.add_argument("--out", metavar="FILE", help=".png, .pdf or .svg (curves.png in the folder)")
    p.add_argument("--format", choices=FORMATS, default="png", help="where --out is not given (png)")
    return p


def compare() -> Options:
    """Those of ``mfrun compare``."""
    p = Options(
        "mfrun compare",
        description="Hold every width of a sweep to n = infinity (or to the largest width, where there is no inf): "
        "the gap over the run, its rate in n, and the horizon, the time at which one network's gap first exceeds a "
        "tolerance.",
    )
    _folders(p, "sweep")
    p.add_argument("--metrics", help="comma-separated columns of metrics.csv; losses and errors by default")
    p.add_argument(
        "--tolerance",
        type=float,
        default=0.05,
        help="of the horizon, as a fraction of the range that the reference runs through (0.05)",
    )
    p.add_argument("--absolute", action="store_true", help="the tolerance is in the metric's own units")
    p.add_argument(
        "--steps",
        metavar="K,K,...",
        help="steps at which to list the gap as well, each by the last evaluation up to it; the decades by default",
    )
    p.add_argument("--times", metavar="T,T,...", help="times t at which to list the gap as well")
    _beside_a_prediction(p)
    _table_and_figure(p, "compare", "sweep")
    return p


def ensemble() -> Options:
    """Those of ``mfrun ensemble``."""
    p = Options(
        "mfrun ensemble",
        description="For each width of a sweep, the loss of one network and of averages of k networks' outputs: how "
        "much of what a finite width costs is variance, which averaging wins back, and how much is bias. From the "
        "states that are there.",
    )
    _folders(p, "sweep")
    p.add_argument("--networks", default="2,4,8", metavar="K,K,...", help="networks in an average (2,4,8)")
    p.add_argument("--step", type=int, metavar="K", help="of the saved states; the last that all runs have by default")
    p.add_argument("--metrics", help="comma-separated columns of metrics.csv; all of the last split by default")
    _beside_a_prediction(p)
    _table_and_figure(p, "ensemble", "sweep")
    return p


def statics() -> Options:
    """Those of ``mfrun statics``."""
    p = Options(
        "mfrun statics",
        description="Draw sub-networks of n neurons a layer from a trained network, and measure how far their outputs "
        "and their loss are from its own: Section 4.1 and Appendix B of the paper predict n^-1/2.",
    )
    p.add_argument(
        "run", nargs="?", type=_folder, metavar="RUN", help="folder of a run: n = infinity, or a wide network"
    )
    p.add_argument("--latest", action="store_true", help="the newest run below outputs/ that is not one of a sweep")
    p.add_argument("--step", default="newest", metavar="K|all", help="a saved state, or all of them (the newest)")
    p.add_argument("--widths", default="16,32,64,128,256,512", help="comma-separated n (16,32,64,128,256,512)")
    p.add_argument("--draws", type=_number, default=32, help="sub-networks for each n (32)")
    p.add_argument("--samples", type=_number, default=1000, help="evaluation samples (1000)")
    p.add_argument("--seed", type=int, default=0, help="of the draws (0)")
    _table_and_figure(p, "statics", "run")
    return p


def status() -> Options:
    """Those of ``mfrun status``."""
    p = Options("mfrun status", description="How the runs below a folder stand.")
    p.add_argument("dir", nargs="?", type=_folder, help="a run, a sweep, or any folder of them (outputs)")
    p.add_argument("--latest", action="store_true", help="the newest run or sweep below outputs/ (or below a folder)")
    p.add_argument(
        "--se", action="store_true", help="with the standard errors of averages over the evaluation's samples"
    )
    p.add_argument("--json", action="store_true", help="for other programs: a list of runs")
    return p


def export() -> Options:
    """Those of ``mfrun export``."""
    p = Options(
        "mfrun export",
        description="The metrics of a sweep as one tidy table: a row for each run, evaluation and replicate, with the "
        "width and each swept key in front. With --features, a run's data set as a hidden layer sees it, an .npz that "
        "dataset=arrays takes.",
    )
    p.add_argument("path", type=_folder, metavar="RUN_OR_SWEEP", help="folder of a run, a sweep, or of several")
    p.add_argument("--features", type=int, metavar="LAYER", help="a_l of this hidden layer at every sample, .npz")
    p.add_argument("--step", type=int, metavar="K", help="of --features: a state that was kept (the last)")
    p.add_argument("--replicate", type=int, metavar="R", help="of --features (0)")
    p.add_argument("--out", metavar="FILE", help=".csv, .parquet or .npz (named after the folder, in it)")
    p.add_argument("--format", choices=("csv", "parquet"), help="where --out is not given (csv)")
    return p


def report() -> Options:
    """Those of ``mfrun report``."""
    p = Options(
        "mfrun report",
        description="One HTML file about a sweep, to be opened anywhere: curves to hover over, the distance to the "
        "limit in words, table and picture, the settings, and the commands that repeat it.",
    )
    p.add_argument("path", nargs="?", type=_folder, metavar="RUN_OR_SWEEP", help="folder of a run or sweep")
    p.add_argument("--latest", action="store_true", help="the newest run or sweep below outputs/")
    p.add_argument("--metrics", help="comma-separated columns of metrics.csv; losses and errors by default")
    p.add_argument("--out", metavar="FILE", help="(report.html in the folder)")
    return p


def predict() -> Options:
    """Those of ``mfrun predict``, beside its keys."""
    p = Options("mfrun predict", add_help=False, allow_abbrev=False)
    p.add_argument(
        "--accuracy",
        default="1%",
        metavar="A",
        help="of the width that is asked for: 1%% of the metric's value in the limit, or a number (1%%)",
    )
    p.add_argument("--networks", type=int, default=8, metavar="K", help="whose outputs are averaged in an ensemble (8)")
    p.add_argument("--tolerance", type=float, default=0.05, help="of the horizon, as `mfrun compare` takes it (0.05)")
    p.add_argument("--metrics", help="comma-separated columns of metrics.csv; losses and errors by default")
    p.add_argument("--format", choices=FORMATS, default="png", help="of the figure (png)")
    return p
