"""The law of the neurons in training: laws that are known, and the picture from kept states."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread

from mfrun import cli
from mfrun.study.curves import load
from mfrun.study.weights import Atoms, refined
from mfrun.study.weights import laws as laws_of

SMALL = ["dataset.d=8", "batch=20", "evaluation.samples=50", "threads=1", "particles.first=512"]


def distance(law: Atoms, cdf: object) -> float:
    """Kolmogorov's distance of a law to a distribution function."""
    order = np.argsort(law.points)
    above = np.cumsum(law.p[order])
    true = cdf(law.points[order])  # type: ignore[operator]
    return float(max(np.abs(above - true).max(), np.abs(above - law.p[order] - true).max()))


def laws(folder: Path, steps: list[int]) -> dict[str, dict[str, list[Atoms]]]:
    """By width, the marginals at the steps."""
    curves, _ = load([str(folder)], latest=False)
    return {c.label: laws_of(c, steps) for c in curves}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hidden layers, a wide network and the limit, trained far enough that both laws move."""
    folder = tmp_path_factory.mktemp("weights") / "sweep"
    keys = ["depth=3", "steps=200", "alpha=0.01", "init.tau2=0.3", "keep_checkpoints=1", "widths=[8,800,inf]"]
    assert cli.run(["sweep", *SMALL, *keys, f"dir={folder}"]) == 0
    return folder


def test_initial_laws(sweep: Path) -> None:
    """|w| is tau1 / sqrt d times a chi variable with d degrees of freedom, beta is N(mu2, tau2^2)."""
    norm = scipy.stats.chi(8, scale=math.sqrt(2 / 8)).cdf
    beta = scipy.stats.norm(1.0, 0.3).cdf
    found = laws(sweep, [0])
    # The quadrature nodes' law is refined, so it is the normal law; the others are draws or particles.
    for label, most in (("inf", 0.025), ("800", 1.63 / math.sqrt(800)), ("8", 1.63 / math.sqrt(8))):
        assert distance(found[label]["norm"][0], norm) < most
        assert distance(found[label]["beta"][0], beta) < (2e-3 if label == "inf" else most)


def test_weights_of_another_scaling_are_its_own(tmp_path: Path) -> None:
    """N(0, 2) for the NTK's, though what is saved are n^1/2 times these."""
    keys = ["depth=3", "steps=0", "scaling=ntk", "widths=[400]"]
    assert cli.run(["sweep", *SMALL, *keys, f"dir={tmp_path / 's'}"]) == 0
    found = laws(tmp_path / "s", [0])["400"]
    assert distance(found["beta"][0], scipy.stats.norm(0.0, math.sqrt(2)).cdf) < 1.63 / math.sqrt(400)
    assert distance(found["norm"][0], scipy.stats.chi(8, scale=math.sqrt(2 / 8)).cdf) < 1.63 / math.sqrt(400)


def test_a_wide_network_follows_the_limit(sweep: Path) -> None:
    """After training the laws of n = 800 are the limit's but for chance, and far from those at the start."""
    found = laws(sweep, [0, 200])
    for name in ("norm", "beta"):
        limit = found["inf"][name]
        start, end = (scipy.stats.ecdf(a.points).cdf.evaluate for a in (limit[0], limit[1]))
        assert distance(limit[1], start) > 0.2
        assert distance(found["800"][name][1], end) < 1.63 / math.sqrt(800) + 0.02
        assert limit[1].p.sum() == pytest.approx(1.0)


def test_refined_nodes_are_the_moved_law() -> None:
    """Under the flow beta -> 2 beta + 3 sixteen Gauss-Hermite nodes stand for N(3, 4), to a part in a thousand."""
    nodes, _ = np.polynomial.hermite_e.hermegauss(16)
    law = refined(nodes, 2 * nodes + 3, 1.0, scipy.stats.norm.ppf)
    assert distance(law, scipy.stats.norm(3, 2).cdf) < 1e-3 + 1 / 1024


@settings(deadline=None, derandomize=True)
@given(
    points=st.lists(st.floats(-5, 5), min_size=2, max_size=8, unique=True),
    copies=st.lists(st.integers(1, 4), min_size=8, max_size=8),
)
def test_weights_are_copies(points: list[float], copies: list[int]) -> None:
    """A neuron of weight k/n is k neurons of weight 1/n: quantiles and densities are the same."""
    values, k = np.array(points), np.array(copies[: len(points)], dtype=float)
    if np.ptp(values) < 1e-3:
        return
    weighted = Atoms(values, k / k.sum())
    copied = Atoms(np.repeat(values, k.astype(int)), np.full(int(k.sum()), 1 / k.sum()))
    x = np.linspace(-9, 9, 400)
    # The bias correction of a weighted variance counts atoms; the kernel asked for must come out all the same.
    assert weighted.density(x, 0.7) == pytest.approx(copied.density(x, 0.7), rel=1e-9, abs=1e-12)
    assert [weighted.quantile(u) for u in (0.1, 0.5, 0.9)] == [copied.quantile(u) for u in (0.1, 0.5, 0.9)]
    assert np.trapezoid(weighted.density(x, 0.7), x) == pytest.approx(1.0, abs=1e-3)


def test_density_is_smoothed_by_the_kernel_that_is_asked_for() -> None:
    """Two atoms far apart: two normal densities with the kernel's own standard deviation."""
    law = Atoms(np.array([0.0, 10.0]), np.array([0.25, 0.75]))
    x = np.array([0.0, 0.3, 10.0, 10.3])
    known = 0.25 * scipy.stats.norm.pdf(x, 0, 0.3) + 0.75 * scipy.stats.norm.pdf(x, 10, 0.3)
    assert law.density(x, 0.3) == pytest.approx(known, rel=1e-9)


def test_the_picture(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """plot --weights draws kept states, and says which there are."""
    assert cli.run(["plot", "--weights", str(sweep)]) == 0
    assert (sweep / "weights.png").stat().st_size > 20_000
    assert cli.run(["plot", "--weights", str(sweep), "--steps", "0,100", "--widths", "8,inf", "--format", "svg"]) == 0
    assert (sweep / "weights.svg").stat().st_size > 5_000
    rows = []
    for size in ("2.5,2", "2.5,3"):
        assert cli.run(["plot", "--weights", str(sweep), "--size", size, "--dpi", "50"]) == 0
        rows.append(len(imread(sweep / "weights.png")))
    assert rows[1] - rows[0] == 2 * 50
    capsys.readouterr()
    assert cli.run(["plot", "--weights", str(sweep), "--steps", "7"]) == 2
    assert "--steps 7: no such state; all runs have those of 0, 1, 10, 100" in capsys.readouterr().err


@pytest.mark.parametrize(
    "keys",
    [
        ["depth=2", "architecture.biases=false"],
        ["depth=3", "init.tau3=0.5", "dataset.d=2"],
        ["depth=3", "init.tau2=0"],
        ["depth=3", "init=rademacher"],
        ["depth=3", "init=embedding", "init.m=1"],
    ],
)
def test_other_laws(tmp_path: Path, keys: list[str]) -> None:
    """Two layers, several bias types, laws without a density: all are drawn, and all have probability 1."""
    folder = tmp_path / "sweep"
    few = ["particles.first=64", "particles.last=64", "particles.nodes=4", "steps=10", "widths=[20,inf]"]
    assert cli.run(["sweep", *SMALL[:-1], *few, *keys, f"dir={folder}"]) == 0
    assert cli.run(["plot", "--weights", str(folder), "--steps", "10"]) == 0
    for law in laws(folder, [10])["inf"].values():
        assert law[0].p.sum() == pytest.approx(1.0)
        assert law[0].points.shape == law[0].p.shape


def test_what_stands_for_a_width_counts_as_many_neurons(tmp_path: Path) -> None:
    """Of n = 64 by 16, copies of a point have the weight c / 2n of the c neurons that it stands for, which differ."""
    folder = tmp_path / "sweep"
    keys = ["widths=[64]", "neurons=16", "depth=3", "steps=5", "replicates=2"]
    assert cli.run(["sweep", *SMALL[:-1], *keys, f"dir={folder}"]) == 0
    for law in laws(folder, [5])["64"].values():
        (counts,) = (2 * 64 * 2 * a.p for a in law)
        assert counts == pytest.approx(counts.round(), abs=1e-4)
        assert counts.sum() == pytest.approx(2 * 64 * 2)
        assert len(np.unique(counts.round())) > 2


def test_nothing_in_common(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs that stopped at different steps kept no state in common."""
    for steps in (3, 40):
        run = tmp_path / f"steps{steps}"
        assert cli.run(["train", *SMALL, "width=4", f"steps={steps}", f"seed.init={steps}", f"dir={run}"]) == 0
    capsys.readouterr()
    assert cli.run(["plot", "--weights", str(tmp_path)]) == 2
    assert "keep_checkpoints=" in capsys.readouterr().err
