"""What is said is true: folders, commands to go on with, states of runs, pictures and gaps that cannot be told."""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import LIMIT, TINY, here, start, steps_logged, wait_until

import mfrun
from mfrun.errors import UserError
from mfrun.study.convergence import Gap

SEVERAL = ["threads=1", *TINY[2:]]


def test_a_time_is_another_step_at_another_rate(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*SEVERAL, "widths=[3,10]", "alpha=0.01,0.02", "steps=40", "evaluation.points_per_decade=40", "dir=s"]
    assert here("sweep", *words) == 0
    capsys.readouterr()
    chosen = ["--metrics", "population_loss"]
    assert here("compare", "s", *chosen, "--times", "0.2,0.4,9") == 0
    assert capsys.readouterr().out.count(" t=0.2     t=0.4       t=9") == 2
    at = mfrun.compare("s", metrics="population_loss", times="0.2,0.4,9").set_index("alpha")
    by_step = mfrun.compare("s", metrics="population_loss", steps="10,20,40").set_index("alpha")
    for alpha, first, second in ((0.01, 20, 40), (0.02, 10, 20)):
        assert at["gap_of_one_at_t=0.2"][alpha] == by_step[f"gap_of_one_at_{first}"][alpha]
        assert at["gap_of_one_at_t=0.4"][alpha] == by_step[f"gap_of_one_at_{second}"][alpha]
    assert at["gap_of_one_at_t=9"].isna().all()
    for option in ("--times", "--steps"):
        assert here("compare", "s", option, "-3") == 2
        assert f"{option} -3: a list of numbers > 0" in capsys.readouterr().err


def test_gaps_of_widths_on_other_samples_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    for width, seeds in ((3, "seed.eval=4"), (10, "seed.data=7"), ("inf", "seed.eval=0")):
        assert here("train", *TINY, *LIMIT, f"width={width}", seeds, "steps=20", f"dir=s/{width}") == 0
    capsys.readouterr()
    assert here("compare", "s") == 0
    said = capsys.readouterr().out
    assert "! seed.eval is 0 and 4: gaps hold the chance of the samples of the evaluation, a standard error of" in said
    assert "! seed.data is 0 and 7: gaps hold the chance of the batches" in said
    assert "common to all widths" not in said


def test_runs_that_took_kernels_down_are_compared_with_those_that_did_not(capsys: pytest.CaptureFixture[str]) -> None:
    for width, kernels in ((3, 5), (10, 0), ("inf", 0)):
        words = [f"width={width}", f"evaluation.kernels={kernels}", "steps=20", f"dir=s/{width}"]
        assert here("train", *TINY, *LIMIT, *words) == 0
    capsys.readouterr()
    assert here("compare", "s", "--metrics", "population_loss") == 0
    told = capsys.readouterr()
    assert "gap to the limit n = inf" in told.out
    assert "left out" not in told.err
    assert len(mfrun.compare("s", metrics="population_loss")) == 2


def test_a_finished_run_without_metrics_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert here("sweep", *SEVERAL, "widths=[3,10]", "steps=5", "dir=s") == 0
    Path("s/width=3/metrics.csv").unlink()
    assert here("plot", "s") == 0
    assert "mfrun: s/width=3: left out: its metrics.csv is missing or empty" in capsys.readouterr().err
    Path("s/width=10/status.json").write_text("{")
    assert here("status", "s") == 0
    assert "unknown" in capsys.readouterr().out


def test_jobs_that_compute_the_same_are_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*SEVERAL, *LIMIT, "widths=[3,20,inf]", "neurons=4,6", "stand_in.first=8", "steps=3", "dir=s"]
    assert here("sweep", *words) == 0
    assert "width=inf,neurons=6: computes what width=inf,neurons=4 does" in capsys.readouterr().err
    names = {"width=3,neurons=4", "width=20,neurons=4", "width=20,neurons=6", "width=inf,neurons=4"}
    assert {run.path.name for run in mfrun.load("s")} == names  # type: ignore[union-attr]
    assert here("sweep", "dir=s", "resume=true", "steps=6") == 0
    # Each stands beside the limit, which is of both settings.
    table = mfrun.compare("s", metrics="population_loss")
    assert sorted(table["width"]) == [3, 3, 20, 20]
    assert set(table["reference"]) == {"inf"}
    assert "by" in capsys.readouterr().out


def test_two_commands_of_one_second_have_a_folder_each(capfd: pytest.CaptureFixture[str]) -> None:
    """Three of them at once: every run is whole, and where it went was said at its start."""
    processes = [start("train", *TINY, f"seed.init={k}", "steps=30") for k in range(3)]
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * 3
    places = {err.splitlines()[0].removeprefix("mfrun: writes to ") for _, err in said}
    assert len(places) == 3
    assert {str(run.path) for run in mfrun.load("outputs")} == set(map(os.path.abspath, places))  # type: ignore[union-attr]


def test_a_default_folder_goes_again_where_nothing_is_written() -> None:
    assert here("sweep", *SEVERAL, "widths=[3]", "alpha=-1") == 2
    assert not Path("outputs").exists()


def test_the_command_that_goes_on_is_one_for_the_shell() -> None:
    """As printed, with the folder in quotes, it goes on."""
    process = start("train", *TINY, "steps=8000", "checkpoint_seconds=0.05", "dir=a b", hold=4000)
    wait_until(lambda: steps_logged("a b") >= 100, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    line = err.strip().splitlines()[-1]
    assert line == "mfrun: stopped; the state is saved; mfrun train 'dir=a b' resume=true goes on from it"
    words = shlex.split(line.partition("saved; ")[2].removesuffix(" goes on from it"))
    assert here(*words[1:]) == 0
    assert steps_logged("a b") == 8000


def test_the_log_of_a_run_says_what_happened_to_it() -> None:
    assert here("train", *TINY, "steps=20", "budget=0.5", "dir=r") == 0
    assert here("train", "dir=r", "resume=true", "budget=1") == 0
    lines = [line[21:] for line in Path("r/run.log").read_text().splitlines()]
    assert lines[0].startswith("step 0/10: running; 1 thread, products by ")
    assert lines[1].startswith("step 0/10: population_loss ")
    assert "step 10/10: finished" in lines
    assert any(line.startswith("step 10/20: running; ") for line in lines)
    assert lines[-1] == "step 20/20: finished"


def test_the_latest_goes_on(capfd: pytest.CaptureFixture[str]) -> None:
    assert here("train", *TINY, "steps=20", "budget=0.5") == 0
    assert here("sweep", *SEVERAL, "widths=[3]", "steps=20", "budget=0.5") == 0
    assert here("train", "--latest", "resume=true", "budget=1") == 0
    assert here("sweep", "--latest", "resume=true", "budget=1") == 0
    capfd.readouterr()
    assert here("status", "--json") == 0
    runs = json.loads(capfd.readouterr().out)
    assert [(run["step"], run["state"]) for run in runs] == [(20, "finished")] * 2
    assert here("status", "--latest") == 0
    assert here("statics", "--latest", "--widths", "2,4", "--draws", "2", "--samples", "20") == 0


def test_runs_that_wait_are_listed_in_the_order_of_their_numbers(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start("sweep", *SEVERAL, "widths=[10,9,100,inf]", *LIMIT, "steps=20000", "dir=s", hold=1000)
    wait_until(lambda: Path("s/sweep.yaml").exists() and any(Path("s").glob("*/metrics.csv")), process)
    process.kill()
    process.communicate()
    capfd.readouterr()

    def nobody_runs() -> bool:
        # The sweep's runs are processes of their own, which hear of its death and end a moment after it.
        assert here("status", "s", "--json") == 0
        return all(run["state"] != "running" for run in json.loads(capfd.readouterr().out))

    wait_until(nobody_runs)
    assert here("status", "s") == 0
    lines = capfd.readouterr().out.splitlines()[2:]
    assert [line.split()[0] for line in lines] == [f"width={n}" for n in (9, 10, 100, "inf")]
    assert "waiting" in {line.split()[1] for line in lines}
    monkeypatch.chdir("s")
    assert here("status", ".") == 0
    assert capfd.readouterr().out.splitlines()[2:] == lines


def test_whole_numbers_and_homes_as_people_write_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert here("sweep", *SEVERAL, "widths=[1e1,3]", "steps=2e1", "dir=~/s") == 0
    sweep = mfrun.load(tmp_path / "s")
    assert isinstance(sweep, mfrun.Sweep)
    assert [(run.width, run.status["step"]) for run in sweep] == [(3, 20), (10, 20)]


# -- pictures --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def diverging(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("diverging") / "s"
    assert here("sweep", *SEVERAL, "widths=[3,10]", "alpha=0.001,1e6", "steps=50", f"dir={top}") == 0
    return top


def test_axes_follow_the_curves_that_did_not_diverge(diverging: Path) -> None:
    pictures = [mfrun.plot(of) for of in (diverging, sorted(diverging.glob("width=3,alpha=0.001*"))[0])]
    loss, error = pictures[0].axes
    well = mfrun.load(diverging).frame.query("alpha < 1 and step > 0")
    assert loss.get_ylim()[1] < 1.2 * well["population_loss"].max()
    assert error.get_ylim()[1] <= 1
    crosses = [line for line in loss.lines if line.get_marker() == "x"]
    assert len(crosses) == 2
    said = [[text.get_text() for text in figure.legends[0].get_texts()] for figure in pictures]
    assert ["diverged" in words for words in said] == [True, False]


def test_options_that_cannot_be_followed_are_refused(diverging: Path) -> None:
    for chosen, message in (
        ({"style": "typo"}, "--style typo: does not vary here; the keys that vary are alpha"),
        ({"style": "depth"}, "--style depth: does not vary here"),
        ({"facet": "depth"}, "--facet depth: does not vary here"),
        ({"ylim": "test_loss=0,1"}, "--ylim test_loss=0,1: no such panel; there are population_loss, population_error"),
        ({"yscale": "cubic"}, "--yscale cubic: log or linear"),
        ({"size": "0,1"}, "--size 0,1: inches"),
        ({"style_file": "none"}, "--style-file none: no style of matplotlib"),
    ):
        with pytest.raises(UserError, match=f"^{message}"):
            mfrun.plot(diverging, **chosen)


def test_facets_ranges_sizes_and_colours(diverging: Path) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    figure = mfrun.plot(diverging, facet="alpha", ylim="population_loss=0,2", size="2,3", font_size=6)
    assert len(figure.axes) == 4
    assert [ax.get_ylim() for ax in figure.axes[::2]] == [(0, 2)] * 2
    assert tuple(figure.get_size_inches()) == (4, 6)
    assert figure.axes[0].title.get_fontsize() == 7
    assert dict(mpl.rcParams) == before
    both, one = (mfrun.plot(diverging, style="alpha", **w) for w in ({}, {"widths": "10"}))
    colour = {line.get_color() for line in one.axes[0].lines if line.get_marker() != "x"}
    assert len(colour) == 1
    assert colour < {line.get_color() for line in both.axes[0].lines}


# -- gaps ------------------------------------------------------------------------------------------------------------


def gap(replicates: int, mean: float, deviation: float) -> Gap:
    """One step, replicates at ``mean`` with exactly this deviation."""
    z = np.linspace(-1, 1, replicates) if replicates > 1 else np.zeros(1)
    values = mean + (deviation * z / z.std(ddof=1) if replicates > 1 else z)
    return Gap(10.0, pd.DataFrame([values], index=[1]), pd.Series([0.1], [1]), *[pd.Series([0.0], [1])] * 2)


def test_one_replicate_says_nothing_about_chance() -> None:
    one = gap(1, 0.5, 0.0)
    assert one.mean_flagged() is None
    assert one.noise().isna().all()
    assert one.replicates_to_tell() is None


@pytest.mark.parametrize(("mean", "deviation"), [(1.0, 0.5), (0.3, 1.0), (0.1, 1.0)])
def test_as_many_replicates_as_are_said_to_tell_do(mean: float, deviation: float) -> None:
    """With the deviation known and the gap what it looks like, that many are enough and fewer are not."""
    wanted = gap(40_000, mean, deviation).replicates_to_tell()
    assert wanted is not None
    assert gap(wanted, mean, deviation).mean_flagged() is False
    assert gap(max(2, int(0.85 * wanted)), mean, deviation).mean_flagged() is True


def test_what_cannot_be_estimated_is_said_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert here("sweep", *SEVERAL, "widths=[3,10,30]", "steps=20", "dir=s") == 0
    capsys.readouterr()
    assert here("compare", "s", "--steps", "10,100000") == 0
    out = capsys.readouterr().out
    assert "mean cannot be estimated: with one replicate it is that of one network" in out
    assert "? one replicate does not show the chance of the start" in out
    assert "particles" not in out
    # There is nothing to list beyond the end of a run.
    assert out.splitlines()[3].split()[-1] == "-"
    assert math.isnan(mfrun.compare("s", steps="10,100000")["gap_of_one_at_100000"].iloc[0])


# -- files of one's own ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("depth: two", "depth: two: must be a whole number"),
        ("depht: 3", "depht: unknown key; did you mean depth?"),
        ("init:\n  tau2: high", "init.tau2: high: must be a number"),
        ("defaults:\n  - override /activation: relo", "activation: relo: there is no such file; one of erf, gelu, "),
        ("depth: [1", "line 3: not YAML"),
    ],
)
@pytest.mark.parametrize("command", ["train", "sweep"])
def test_an_error_in_a_file_names_file_key_and_value(
    command: str, content: str, message: str, capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    Path("mine/figure").mkdir(parents=True)
    Path("mine/figure/own.yaml").write_text(f"# @package _global_\n{content}\n")
    assert here(command, "--config-dir", "mine", "figure=own", "alpha=0.1", "dir=r") == 2
    err = capfd.readouterr().err
    assert err.startswith(f"mfrun: {folder / 'mine' / 'figure' / 'own.yaml'}: {message}")
    assert len(err.splitlines()) == 1


def test_a_sweep_s_bar_weighs_runs_by_their_cost() -> None:
    """On a terminal: after one run of two, of which the other is much longer, the bar is not in the middle."""
    import fcntl
    import os
    import pty
    import re
    import struct
    import sys
    import termios

    pid, terminal = pty.fork()
    if pid == 0:
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 110, 0, 0))
        words = ["dataset.d=3", "depth=3", "widths=[4,256]", "steps=300", "evaluation.samples=50", "threads=2", "dir=s"]
        os.execv(sys.executable, [sys.executable, "-m", "mfrun", "sweep", *words])
    said = b""
    try:
        while part := os.read(terminal, 4096):
            said += part
    except OSError:  # The other end is closed.
        pass
    assert os.waitpid(pid, 0)[1] == 0
    shares = {int(m[1]): int(m[2]) for m in re.finditer(rb"sweep (\d)/2 runs +(\d+)%", said)}
    assert shares[0] == 0
    assert not 30 < shares[1] < 70
    assert shares[2] == 100
