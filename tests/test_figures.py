"""The presets of the paper's figures: every number of the captions, and each of them run on a little data."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from formats import write_arrays, write_cifar10, write_mnist
from omegaconf import OmegaConf
from torchvision import datasets as tv

from mfrun import cli
from mfrun.config import conf_dir, content
from mfrun.runs.directory import RunDirectory, read_sweep, write_sweep
from mfrun.shell.compose import compose, compose_whole
from mfrun.study.curves import load


@dataclass
class Caption:
    """What a figure's caption and Sections 4.2.1 and C say."""

    dataset: str
    depth: int
    widths: list[int]
    alpha: float
    activation: str = "relu"
    p: float | None = None
    tau2: list[float] = field(default_factory=lambda: [0.1])
    steps: int = 10**5
    architecture: str = "dense"


GAUSSIANS, MNIST, CIFAR = [50, 100, 200, 400, 800], [100, 200, 400, 800, 1600], [200, 400, 800, 1600, 2400]
CAPTIONS = {
    "fig1": Caption("mnist", 4, MNIST, 0.01),
    "fig5_top": Caption("gaussians", 5, GAUSSIANS, 0.001),
    "fig5_bottom": Caption("gaussians", 5, GAUSSIANS, 0.001, tau2=[0.1, 3]),
    "fig6a": Caption("mnist", 3, MNIST, 0.01),
    "fig6b": Caption("mnist", 4, MNIST, 0.01),
    "fig6c": Caption("mnist", 5, MNIST, 0.01),
    "fig7": Caption("mnist", 4, MNIST, 0.01, tau2=[0.1, 2]),
    "fig8a": Caption("cifar10", 3, CIFAR, 0.07),
    "fig8b": Caption("cifar10", 4, CIFAR, 0.07),
    "fig8c": Caption("cifar10", 5, CIFAR, 0.07),
    "fig9": Caption("cifar10", 4, CIFAR, 0.07, tau2=[0.1, 2]),
    "fig10a": Caption("gaussians", 5, GAUSSIANS, 0.003, "tanh", 0.1, tau2=[3]),
    "fig10b": Caption("mnist", 4, [100, 400, 600, 800, 1600], 0.01, "tanh", 0.1, tau2=[2]),
    "fig10c": Caption("cifar10", 4, CIFAR, 0.2, "tanh", 0.1, tau2=[2]),
    "fig11": Caption("vgg16", 4, CIFAR, 0.02),
    # N(1, 0.1) beside N(0, 2 / (9d)): the second number is a variance.
    "fig12": Caption(
        "cifar10", 8, [100, 200, 400, 800], 0.08, p=0.1, tau2=[math.sqrt(0.1)], steps=30000, architecture="cnn"
    ),
}
# Trains in no time.
TINY = ["threads=1", "batch=5", "evaluation.samples=10"]
FEW = ["particles.first=16", "particles.last=16", "particles.nodes=3"]


def preset(name: str) -> tuple[dict[str, object], dict[str, list[float]]]:
    """The configuration that a preset composes, and what it sweeps beside the widths."""
    words = [f"figure={name}"]
    plain = OmegaConf.to_container(compose(words, []), resolve=True)
    assert isinstance(plain, dict)
    swept = compose_whole(words, []).hydra.sweeper.params or {}
    return plain, {str(key): [float(v) for v in str(values).split(",")] for key, values in swept.items()}


def test_every_figure_has_a_preset() -> None:
    assert {f.stem for f in (conf_dir() / "figure").glob("*.yaml")} == set(CAPTIONS)


@pytest.mark.parametrize("name", CAPTIONS)
def test_presets_are_the_captions(name: str) -> None:
    """Data set, depth, widths, activation, rate, schedule, initialisation, batch size and samples."""
    caption, (plain, swept) = CAPTIONS[name], preset(name)
    assert plain["dataset"]["name"] == caption.dataset
    assert plain["architecture"]["name"] == caption.architecture
    assert plain["depth"] == caption.depth
    assert plain["widths"] == [*caption.widths, "inf"]
    assert plain["activation"]["name"] == caption.activation
    assert plain["alpha"] == caption.alpha
    assert plain["schedule"]["name"] == ("constant" if caption.p is None else "power")
    assert plain["schedule"].get("p") == caption.p
    assert plain["schedule"]["warmup"] == 0
    assert plain["schedule"]["multipliers"] == []
    init = dict(plain["init"])
    assert (init.pop("name"), init.pop("law")) == ("iid", "normal")
    assert init == pytest.approx({"tau1": math.sqrt(2), "mu2": 1, "tau2": caption.tau2[0], "mu3": 0, "tau3": 0})
    assert swept == ({"init.tau2": caption.tau2} if len(caption.tau2) > 1 else {})
    assert plain["batch"] == 100
    assert plain["steps"] == caption.steps
    assert plain["evaluation"]["samples"] == 10**4
    assert plain["loss"]["name"] == ("squared" if caption.dataset == "gaussians" else "cross_entropy")
    if caption.dataset == "gaussians":
        assert (plain["dataset"]["d"], plain["dataset"]["delta"]) == (32, 0.4)
    figure = name.removeprefix("fig").split("_")[0]
    assert str(plain["title"]).startswith(f"Figure {figure}")


@pytest.mark.parametrize("name", CAPTIONS)
def test_presets_quote_their_source(name: str) -> None:
    """Whoever reads a preset sees where its numbers come from, and every key has a comment."""
    text = (conf_dir() / "figure" / f"{name}.yaml").read_text()
    assert any(word in text for word in ("aption", "row of Figure"))
    for line in text.split("title:")[1].splitlines()[1:]:
        key, _, value = line.strip().partition(":")
        assert not value or "#" in value, f"{key} has no comment"
        assert len(line) <= 120


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a few images of every data set, which is where the runs go too."""
    write_mnist(tmp_path)
    _, sums = write_cifar10(tmp_path)
    monkeypatch.setattr(tv.CIFAR10, "train_list", [[n, sums[n]] for n, _ in tv.CIFAR10.train_list])
    monkeypatch.setattr(tv.CIFAR10, "test_list", [[n, sums[n]] for n, _ in tv.CIFAR10.test_list])
    monkeypatch.setattr(tv.CIFAR10, "meta", {**tv.CIFAR10.meta, "md5": sums["batches.meta"]})
    write_arrays(tmp_path / "a.npz")
    monkeypatch.setenv("MFRUN_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", CAPTIONS)
def test_presets_run(name: str, data: Path) -> None:
    """A few steps of a narrow network, with all else as the preset has it."""
    # The features take a network of half a gigabyte to compute.
    features = ["dataset=arrays", "dataset.path=a.npz", "loss=cross_entropy"] if name == "fig11" else []
    budget = 3 / CAPTIONS[name].steps
    assert cli.run(["train", f"+figure={name}", *TINY, *features, "width=3", f"budget={budget}", "dir=run"]) == 0
    run = RunDirectory("run")
    frame = run.metrics()
    assert frame["step"].tolist() == [0, 1, 2, 3]
    assert np.isfinite(frame.drop(columns="replicate").to_numpy()).all()
    assert run.config().steps == 3
    assert run.config().alpha == CAPTIONS[name].alpha


def test_a_sweep_over_tau2_and_its_picture(data: Path) -> None:
    """From the shell: widths= shortens, tau2 is swept by the preset, plot finds title and settings."""
    words = ["+figure=fig7", "widths=[3,inf]", "budget=1e-5", *TINY, *FEW, "dir=out"]
    done = subprocess.run([sys.executable, "-m", "mfrun", "sweep", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = {f.name for f in Path("out").iterdir() if f.is_dir()}
    assert names == {f"width={n},init.tau2={tau2}" for n in (3, "inf") for tau2 in (0.1, 2.0)}
    recorded = read_sweep(Path("out"))
    assert recorded is not None
    assert recorded["swept"] == ["width", "init.tau2"]
    assert recorded["title"] == "Figure 7: MNIST, 4 layers, two values of tau2"
    curves, _ = load(["out"], latest=False)
    assert [(c.label, c.setting) for c in curves] == [
        (n, {"init.tau2": tau2}) for tau2 in (0.1, 2.0) for n in ("3", "inf")
    ]
    assert cli.run(["plot", "out", "--format", "svg"]) == 0
    text = Path("out/curves.svg").read_text()
    # The paper's panels in its order, the limit and the two settings in the legend.
    places = [text.index(w) for w in ("Training loss", "Test loss", "Training error", "Test error")]
    assert places == sorted(places)
    assert all(w in text for w in ("Figure 7: MNIST", "tau2=0.1", "tau2=2"))


def test_what_is_given_outweighs_the_preset(data: Path) -> None:
    """A swept key of the preset may be fixed, or swept over other values."""
    words = ["figure=fig5_bottom", *TINY, *FEW, "budget=1e-5"]
    assert cli.run(["sweep", *words, "widths=[3]", "init.tau2=0.5", "dir=one"]) == 0
    assert [f.parent.name for f in Path("one").glob("*/metrics.csv")] == ["width=3"]
    assert RunDirectory("one/width=3").config().init.tau2 == 0.5
    assert cli.run(["sweep", *words, "widths=[3]", "init.tau2=1,2", "dir=two"]) == 0
    assert sorted(f.parent.name for f in Path("two").glob("*/metrics.csv")) == [
        "width=3,init.tau2=1.0",
        "width=3,init.tau2=2.0",
    ]


def test_budget_is_a_fraction_of_the_steps() -> None:
    """What is recorded is the steps themselves; a budget of 1 changes nothing."""
    full, tenth = (content(compose([f"steps={s}", f"budget={b}"], [])) for s, b in ((100, 0.1), (10, 1)))
    assert full == tenth
    assert full["steps"] == 10
    assert "budget" not in full
    assert content(compose(["steps=5", "budget=0.001"], []))["steps"] == 1
    assert content(compose(["steps=0", "budget=0.5"], []))["steps"] == 0


def write_runs(
    folder: Path,
    figure: str,
    tau2s: list[float],
    widths: list[float],
    metrics: tuple[str, str],
    rise: float = 0.001,
    *,
    neurons: int | None = None,
    first: int | None = None,
    limit: float = 0.0,
    end: int = 100,
) -> None:
    """A sweep of a preset as the runner writes it: loss = error = e^(-k/50) + 3/n + rise tau2 k.

    Args:
        folder: of the sweep.
        figure: the preset.
        tau2s: of its settings.
        widths: n.
        metrics: a loss and an error.
        rise: of the loss.
        neurons: that stand for the widths.
        first: those of layer 1.
        limit: what n = infinity has beyond that at each step.
        end: the last step.
    """
    write_sweep(folder, {"overrides": [f"figure={figure}", "budget=0.001", "threads=1"], "swept": ["width"]})
    for n in widths:
        for tau2 in tau2s:
            run = RunDirectory(folder / f"width={n},init.tau2={tau2}")
            keys = {"width": "inf" if n == math.inf else n, "init": {"tau2": tau2}, "dataset": {"name": "x"}}
            run.create(keys | ({} if neurons is None else {"neurons": neurons, "stand_in": {"first": first}}))
            for k in (k for k in (0, 1, 10, 100) if k <= end):
                value = math.exp(-k / 50) + 3 / n + rise * tau2 * k + limit * k * math.isinf(n)
                row = {"step": k, "t": k * 0.01, "replicate": 0} | dict.fromkeys(metrics, value)
                row |= {f"{m}_bar": 0.001 for m in metrics} if n == math.inf else {}
                row |= {"train_loss": math.exp(-k / 50), f"{metrics[0]}_se": 0.01}
                row |= {"nonpositive_1": 0.5, "nonpositive_2": 0.002 * k}
                run.append([row | {"wall_seconds": 0.2 * k}])
            run.write_status("finished", step=end, steps=end)


def test_the_page_says_what_was_measured_and_what_was_not_run(tmp_path: Path) -> None:
    """Known curves: a gap of 3/n with rate 1, a tau2 that changes no start, a test error of 43 %."""
    write_runs(tmp_path / "a", "fig5_top", [0.1], [50, 100, 200, math.inf], ("population_loss", "population_error"))
    write_runs(tmp_path / "b", "fig7", [0.1, 2.0], [100, math.inf], ("test_loss", "test_error"))
    write_runs(tmp_path / "c" / "d", "fig8b", [0.1], [200, 800], ("test_loss", "test_error"))
    write_runs(tmp_path / "e", "fig8a", [0.1], [200, 400], ("test_loss", "test_error"), rise=0.1)
    # A figure of which another has one half.
    write_runs(tmp_path / "f", "fig5_bottom", [3.0], [50, math.inf], ("population_loss", "population_error"))
    write_runs(tmp_path / "f" / "top", "fig5_top", [0.1], [50, math.inf], ("population_loss", "population_error"))
    # A run of a single width is no sweep to look at, where there is another.
    write_runs(tmp_path / "g", "fig6c", [0.1], [200, math.inf], ("test_loss", "test_error"))
    write_runs(tmp_path / "e1", "fig6c", [0.1], [400], ("test_loss", "test_error"))
    write_runs(tmp_path / "fig11_cnn", "fig11", [0.1], [200], ("test_loss", "test_error"))
    words = ["figure=fig11", "budget=0.001", "dataset.source.path=/data/images.npz"]
    write_sweep(tmp_path / "fig11_cnn", {"overrides": words, "swept": ["width"]})
    script = Path(__file__).parent.parent / "scripts" / "figures_page.py"
    command = [sys.executable, str(script), "--runs", str(tmp_path), "--out", str(tmp_path / "page.md")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "page.md").read_text()
    assert "gap to n = inf: 0.06 at n = 50, 0.03 at n = 100, 0.015 at n = 200, r = 1.00 [1.00, 1.00]" in text
    # 0.015 is less than a twentieth of the loss's range; two widths beside the largest one give no interval.
    verdicts = (
        "among widths: undecided (too few networks for an interval of r)<br>with n = inf: confirmed up to step 100"
    )
    assert f"| {verdicts} |" in text
    assert "| [fig5_top](#figure-5-top-isotropic-gaussians-5-layers) | undecided" in text.split("## What n = inf")[1]
    assert "| [fig7]" not in text.split("## What n = inf")[1]
    assert "gap to n = 200: 0.045 at n = 50, 0.015 at n = 100" in text
    assert "n = 100: 0 and 0.19; n = inf: 0 and 0.19" in text
    assert f"{100 * (math.exp(-2) + 3 / 800 + 0.01):.1f} % at n = 800" in text
    assert "n = 200: 0.0 to 20.0; n = inf: 0.0 to 20.0 | confirmed up to step 100 |" in text
    assert "n = 800: 0.149 at step 100, 0.149 +- 0.02 at the end | not seen by step 100 |" in text
    assert "n = 400: 0.926 at step 10, 1.14 +- 0.02 at the end | confirmed up to step 100 |" in text
    assert "n = 800, step 100 | not seen by step 100 |" in text
    assert "features of a CNN trained here" in text
    assert "gap to n = inf: 0.015 at n = 200" in text.split("| [fig6c]")[1].split("\n")[0]
    assert "100 of 100000" in text
    assert "    mfrun sweep +figure=fig7 budget=0.001\n" in text
    assert "+figure=fig11 budget=0.001 dataset.source.path=images.npz\n" in text
    assert "Data: `images.npz` in the place of the preset's." in text
    assert "/data/" not in text
    assert "Time taken: 1m20s" in text
    assert "    mfrun sweep +figure=fig5_bottom budget=0.001\n    mfrun sweep +figure=fig5_top budget=0.001\n" in text
    assert "n = 50: 0 and 0.29; n = inf: 0 and 0.29" in text
    for name in set(CAPTIONS) - {"fig5_top", "fig5_bottom", "fig6c", "fig7", "fig8a", "fig8b"}:
        assert f"`mfrun sweep +figure={name}`: not run." in text
    run = ("fig5_top", "fig5_bottom", "fig6c", "fig7", "fig8a", "fig8b", "fig11_cnn")
    assert {f.name for f in (tmp_path / "page").iterdir()} == {f"{n}.{end}" for n in run for end in ("png", "json")}


def test_what_was_measured_elsewhere_stays_on_the_page(tmp_path: Path) -> None:
    """A page is the same without the runs; a shorter run takes no figure's place, and one with more to see does."""
    metrics = ("test_loss", "test_error")
    write_runs(tmp_path / "a" / "fig6b", "fig6b", [0.1], [400, 800, math.inf], metrics)
    write_runs(tmp_path / "a" / "fig7", "fig7", [0.1, 2.0], [400, 800, math.inf], metrics)
    write_runs(tmp_path / "b" / "fig6b", "fig6b", [0.1], [400, 800], metrics)
    write_runs(tmp_path / "b" / "fig6b" / "stand_ins", "fig6b", [0.1], [1600], metrics, neurons=256, end=10)
    write_runs(tmp_path / "b" / "fig7", "fig7", [0.1, 2.0], [200, 400, 800, math.inf], metrics)

    def page(runs: str) -> str:
        script = Path(__file__).parent.parent / "scripts" / "figures_page.py"
        command = [sys.executable, str(script), "--runs", str(tmp_path / runs), "--out", str(tmp_path / "page.md")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        stays = "fig6b: stays as it is (3 curves to step 100, 300 steps in all)"
        less = "the runs that are here tell less (3 curves to step 100, 210 steps in all)"
        assert (f"{stays}; {less}" in done.stdout) == (runs == "b")
        return (tmp_path / "page.md").read_text()

    first = page("a")
    pictures = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "page").glob("*.png")}
    assert first.count("| [fig6b]") == 2
    assert "| 200 |" not in first
    assert page("nowhere") == first
    second = page("b")
    assert second.split("### Figure 6b")[1].split("###")[0] == first.split("### Figure 6b")[1].split("###")[0]
    assert [x for x in second.splitlines() if "[fig6b]" in x] == [x for x in first.splitlines() if "[fig6b]" in x]
    assert "| 200 |" in second.split("### Figure 7")[1].split("###")[0]
    drawn = {f.name for f in (tmp_path / "page").glob("*.png") if f.stat().st_mtime_ns != pictures[f.name]}
    assert drawn == {"fig7.png"}


def test_the_page_says_what_the_limit_and_widths_beyond_change(tmp_path: Path) -> None:
    """Finite widths that lie on one another and leave the limit, and a width that is stood for."""
    metrics = ("test_loss", "test_error")
    write_runs(tmp_path / "a", "fig6b", [0.1], [400, 800, 1600, math.inf], metrics, limit=0.01)
    write_runs(tmp_path / "a" / "stand_ins", "fig6b", [0.1], [1600, 1e12], metrics, neurons=256)
    # Two settings of what stands for a width, beside the same real networks.
    write_runs(tmp_path / "c", "fig8b", [0.1], [800, 1600], metrics)
    for first in (512, 1024):
        write_runs(tmp_path / "c" / f"z{first}", "fig8b", [0.1], [1600], metrics, neurons=256, first=first)
    # A figure in which such a width was cut short.
    write_runs(tmp_path / "d", "fig8a", [0.1], [200, 400, math.inf], metrics)
    write_runs(tmp_path / "d" / "stand_ins", "fig8a", [0.1], [400], metrics, neurons=256, end=10)
    # One of which there is nothing but the limit yet.
    write_runs(tmp_path / "b", "fig6a", [0.1], [math.inf], metrics)
    script = Path(__file__).parent.parent / "scripts" / "figures_page.py"
    command = [sys.executable, str(script), "--runs", str(tmp_path), "--out", str(tmp_path / "page.md")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    claims, text = (tmp_path / "page.md").read_text().split("## What n = inf")
    found = [f"n = 1600{by}: 0.0 to 20.0" for by in ("", *(f" by 256 [stand_in.first={k}]" for k in (512, 1024)))]
    assert f"% in layers 2: {'; '.join(found)} |" in claims
    among, limit = next(line for line in text.splitlines() if line.startswith("| [fig6b]")).split(" | ")[1:]
    assert "n = 800 is 0.0019 from n = 1600, never leaves it" in among
    assert re.search(r"n = 1600 is 0\.\d+ from n = inf, leaves it at step \d+", limit)
    row = [line for line in text.splitlines() if line.startswith("| [fig6b]")][1]
    assert re.search(r"\| 1600: \d+ \| 1e12 by 256: \d+ \| 0.147, 0.145, 1.15 \|", row), row
    # The stand-in's made-up curve is that of a real network of its width.
    row = next(line for line in text.splitlines() if line.startswith("| [fig6b]") and "n = 1600 by 256: 0, n" in line)
    held = "n = 1600 by 256: 0, never leaves it<br>n = 800: 0.0019, never leaves it"
    assert f" | 1600 | {held} | 0.147, 0.147 | " in row, row
    rows = [line for line in text.splitlines() if line.startswith("| [fig8b]") and "| 1600 |" in line]
    assert [row.split(") ")[1].split(" |")[0] for row in rows] == [f"[stand_in.first={k}]" for k in (512, 1024)]
    assert all(held in row for row in rows)
    cut, of_real = (line for line in text.splitlines() if line.startswith("| [fig8a]"))
    assert cut.endswith("| 400: not up to step 10 | 400 by 256: not up to step 10 | 0.827, 0.827, 0.82 up to step 10 |")
    held = "n = 400 by 256: 0, does not leave it up to step 10<br>n = 200: 0.0075, does not leave it up to step 10"
    assert of_real.endswith(f" | {held} | 0.827, 0.827 up to step 10 | 82.7 %, 82.7 % up to step 10 |")
    # It says nothing of the end, neither for nor against.
    shares = "n = 400: 0.0 to 20.0; n = 400 by 256 (to step 10): 0.0 to 2.0; n = inf: 0.0 to 20.0"
    assert f"{shares} | confirmed up to step 100 |" in claims
    assert "| nan |" not in text
