"""``mfrun sweep --dry-run``: memory against counts by hand, order and total against the schedule, and that it writes
nothing. How close the predicted times are to real ones depends on the machine; docs/scale.md has a table."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from commands import ARRAYS, LIMIT, TINY, here
from formats import write_arrays
from hydra import compose, initialize_config_dir

from mfrun import config
from mfrun.cli import COMMANDS
from mfrun.dynamics.evaluate import grid
from mfrun.dynamics.experiment import Experiment, assemble
from mfrun.shell import completion
from mfrun.sweeps import estimate, side_by_side
from mfrun.sweeps import plan as plans
from mfrun.sweeps.estimate import Memory, Pace, Planned, measure_memory, measure_pace, smaller
from mfrun.sweeps.plan import PROCESS, Cluster, Plan

SWEEP = [*TINY[2:], "threads=1", "widths=[3,5]", "steps=40"]
FLOAT, DOUBLE = 4, 8


def experiment(*argv: str) -> Experiment:
    config.store_schema()
    with initialize_config_dir(str(config.conf_dir()), version_base="1.3"):
        return assemble(config.validated(compose("config", overrides=list(argv))))


def planned(label: str = "", **numbers: float) -> Planned:
    """A run with numbers that are given, not measured."""
    steps, flops = int(numbers.get("steps", 100)), numbers.get("flops", 1e6)
    one = Planned(side_by_side.Job(lambda threads: True, label, steps, flops), experiment("width=4", f"steps={steps}"))
    one.memory = Memory(*(int(numbers.get(k, 1)) for k in ("weights", "start", "training")))
    one.pace = Pace(one.job.flops, numbers.get("step", 1e-3), numbers.get("sample", 0.0), 0.0)
    return one


def plan_of(runs: list[Planned], **keys: object) -> Plan:
    return Plan(runs, Path("s"), **{"threads": 2, **keys})  # type: ignore[arg-type]


# -- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replicates", [1, 3])
def test_memory_of_a_dense_network(replicates: int) -> None:
    """Weights exactly; the rest from what a step and an evaluation have to hold, and little more."""
    n, d, batch, samples, block = 300, 200, 50, 400, 256
    e = experiment(
        *(f"width={n}", "depth=4", f"dataset.d={d}", f"batch={batch}", f"evaluation.samples={samples}"),
        f"replicates={replicates}",
    )
    weights = d * n + n * n + n * n + n + 3 * n + 1
    found = measure_memory(e)
    assert found.weights == FLOAT * weights * replicates
    # The inner arrays are drawn one after the other in double precision, and the last one of a replicate is still held
    # while that of the next is drawn.
    assert found.start == FLOAT * replicates * (d * n + 2 * n * n) + DOUBLE * n * n * min(replicates, 2)
    # h, a and D of each hidden layer in a step, h and a in an evaluation, and the samples of a block and of all
    # evaluations, which were drawn last.
    activations = FLOAT * replicates * 3 * n * (3 * batch + 2 * samples)
    held = found.weights + activations + FLOAT * d * (block * batch + samples)
    assert held <= found.training <= held + 2 * FLOAT * d * block * batch + 0.1 * held


@pytest.mark.parametrize(("operation", "held"), [("separable", 3), ("of_sum", 1)])
def test_memory_of_an_operation(operation: str, held: int) -> None:
    """What it holds beside W: u(W) in an evaluation, with its gradient in a step; the changes alone in blocks."""
    words = ["width=300", "depth=4", "dataset.d=20", "batch=5", "evaluation.samples=40"]
    own, product = (measure_memory(experiment(*words, *more)) for more in ([f"operation={operation}"], []))
    assert own.training - product.training == held * FLOAT * 2 * 300**2


def test_memory_of_what_stands_for_a_width() -> None:
    """It is drawn at once, as the limit is."""
    words = ["depth=4", "dataset.d=20", "batch=5", "evaluation.samples=40", "replicates=3"]
    real, stood = (measure_memory(experiment(*words, *more)) for more in (["width=300"], ["width=1e6", "neurons=300"]))
    assert stood.weights == pytest.approx(real.weights, rel=0.01)
    assert stood.start == stood.weights + 2 * DOUBLE * stood.weights // FLOAT
    assert stood.start > 2 * real.start


def test_memory_of_a_convolutional_network(folder: Path) -> None:
    from formats import write_mnist

    write_mnist(folder)
    e = experiment("dataset=mnist", f"dataset.root={folder}", "architecture=cnn", "width=8", "batch=5")
    n = 8
    found = measure_memory(e)
    # 28 x 28 pixels: 2 x 2 are left at the output.
    assert found.weights == FLOAT * (9 * n + 6 * 9 * n * n + 7 * n + 10 * 4 * n + 10)
    # h, sigma(h), and where layers pool the place of the maximum (8 bytes) and the value.
    traces = FLOAT * 5 * n * 2 * (14**2 + 3 * 7**2 + 7**2 + 2 * 4**2) + (FLOAT + 8) * 5 * n * (4**2 + 2**2)
    assert found.training >= found.weights + traces


def test_memory_of_the_limit() -> None:
    e = experiment("width=inf", "depth=4", "dataset.d=20", "particles.first=64", "particles.nodes=5", "init.tau3=0")

    def weights(first: int, nodes: int) -> int:
        return 20 * first + first + 1 * nodes + nodes + (first + 1 + nodes + 1)

    # Eight sets, and their union.
    assert measure_memory(e).weights == FLOAT * (8 * weights(8, 5) + weights(64, 2 * 5))


def test_memory_counts_what_lives_and_not_what_lived() -> None:
    """An evaluation of more samples than a chunk holds takes no more activations than a chunk."""
    few, many = (measure_memory(experiment("width=500", f"evaluation.samples={k}")) for k in (1000, 4000))
    assert many.training - few.training == pytest.approx(3000 * 33 * FLOAT, rel=0.1, abs=2**20)


@pytest.mark.parametrize(
    "words",
    [
        ["neuron=gate"],
        ["operation=of_sum"],
        ["operation=separable", "width=inf", *LIMIT],
        ["precision=bf16"],
        ["dtype=float64"],
        ["replicates=2", "replicate_data=independent"],
        ["scaling=ntk", "init.mu2=0"],
        ["evaluation.test_functions=[margin]"],
    ],
)
def test_everything_that_trains_can_be_planned(words: list[str]) -> None:
    run = Planned(side_by_side.Job(lambda threads: True, "", 10, 1e6), experiment(*TINY, "steps=10", *words))
    assert estimate.measure([run]) > 0
    assert run.memory.weights > 0
    assert run.memory.training > run.memory.weights
    assert 0 < run.seconds() < 60
    assert run.disk > 2 * run.memory.weights


# -- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["width=6000", "dataset.d=3000"],
        ["width=2500", "replicates=32"],
        ["width=inf", "particles.first=65536", "dataset.d=3000"],
    ],
)
def test_a_large_step_is_measured_at_a_smaller_size(words: list[str]) -> None:
    e = experiment(*words)
    assert e.flops > 2 * estimate.LARGE_STEP
    less = assemble(smaller(e.cfg, e.flops), e.problem)
    assert 0.2 * estimate.LARGE_STEP < less.flops < 1.5 * estimate.LARGE_STEP
    assert math.isinf(less.cfg.width) == math.isinf(e.cfg.width)


def test_a_step_of_many_samples_is_counted_and_not_made() -> None:
    """Neither the samples of a block of steps nor those of an evaluation have to fit into this machine."""
    runs = [
        Planned(side_by_side.Job(lambda threads: True, "", 10, e.flops), e)
        for e in (experiment(*TINY, f"batch={batch}", "steps=10") for batch in (1000, 10**6, 10**10))
    ]
    estimate.measure(runs)
    thousand, million, more = (run.memory.training for run in runs)
    assert (million - thousand) / (10**6 - 1000) == pytest.approx((more - thousand) / (10**10 - 1000), rel=1e-2)
    # A block of 256 steps: an input of d = 3 and a label, 4 bytes each.
    assert more > 256 * 10**10 * 4 * 4
    steps = [10 * run.pace.step * run.parts for run in runs]
    assert steps[1] / steps[0] == pytest.approx(1000)
    assert steps[2] / steps[1] == pytest.approx(10000)
    e = experiment(*TINY, f"evaluation.samples={10**10}")
    run = Planned(side_by_side.Job(lambda threads: True, "", 10, e.flops), e)
    estimate.measure([run])
    assert run.samples == 10**10
    assert run.memory.training > 10**10 * 3 * 4


def test_a_narrow_layer_keeps_a_neuron_while_it_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the width would leave none; its own width is legal."""
    monkeypatch.setattr(estimate, "LARGE_STEP", 1e5)
    e = experiment("width=100", "depth=3", "architecture.ratios=[1,0.006]", "dataset.d=20", "replicates=3")
    assert smaller(e.cfg, e.flops).width < 80
    assert 0 < measure_pace(e).flops <= e.flops


def test_times_are_the_measured_ones_scaled_by_size_and_steps() -> None:
    run = planned(steps=1000, step=2e-3)
    evaluations = len(grid(1000, 10)) * (estimate.SAVE_SECONDS + 1 / estimate.SAVED_A_SECOND)
    assert run.seconds() == pytest.approx(1000 * 2e-3 + evaluations, rel=1e-6)
    small = side_by_side.Job(lambda threads: True, "", 1, 1e5)
    seconds = {f: side_by_side.STEP_SECONDS + f / side_by_side.CORE_SPEED for f in (1e5, 1e6)}
    ratio = seconds[1e6] / seconds[1e5]
    run.pace = Pace(small.flops, 2e-3, 1e-6, 0.0)
    samples = len(grid(1000, 10)) * 10_000 * 1e-6 * ratio
    assert run.seconds() == pytest.approx(1000 * 2e-3 * ratio + samples + evaluations, rel=1e-6)


def test_a_resumed_run_has_its_last_steps_and_evaluations_to_do() -> None:
    run = planned(steps=1000)
    run.job = side_by_side.Job(lambda threads: True, "", 400, 1e6)
    assert run.evaluations == [k for k in grid(1000, 10) if k > 600]
    assert planned(steps=1000).evaluations == grid(1000, 10)


def test_a_step_takes_the_time_that_steps_take() -> None:
    """Twice the layers' work takes longer, and a pace is a time of this machine: between 1 us and 10 s."""
    small, large = (measure_pace(experiment(f"width={n}", "evaluation.samples=100")) for n in (10, 1000))
    assert 1e-6 < small.step < large.step < 10
    assert 0 < small.sample < large.sample


# -- the plan --------------------------------------------------------------------------------------------------------


def test_order_and_total_are_those_of_the_schedule() -> None:
    sizes = {"a": (1000, 1e6), "b": (1000, 1e10), "c": (3000, 1e6), "d": (500, 5e6)}
    runs = [planned(k, steps=s, flops=f, step=1e-3) for k, (s, f) in sizes.items()]
    plan = plan_of(runs)
    wide, narrow = side_by_side.schedule([run.job for run in runs], 2)
    assert [p.job for p in plan.runs] == [*wide, *narrow]
    assert [job.label for job in wide] == ["b"]
    assert [p.where for p in plan.runs] == ["all 2 cores"] + 3 * ["one core"]
    by_label = {run.job.label: run for run in runs}
    beside = side_by_side.makespan([by_label[job.label].seconds() for job in narrow], 2)
    assert plan.seconds == pytest.approx(by_label["b"].seconds(2) + beside)
    assert by_label["b"].seconds(2) < by_label["b"].seconds(1)
    table = plan.table().splitlines()
    assert [line.split()[0] for line in table[1:]] == [job.label for job in (*wide, *narrow)]


def test_memory_at_the_peak() -> None:
    """Runs side by side add up, those on all cores do not; the data are counted once."""
    runs = [planned(start=s, training=t) for s, t in ((10, 1), (1, 20), (30, 3), (5, 5))]
    plan = plan_of(runs)
    assert {p.cores for p in plan.runs} == {1}
    assert plan.memory == plan.shared + 30 + 20 + 2 * PROCESS
    alone = plan_of(runs, threads=1)
    assert alone.memory == alone.shared + 30 + PROCESS
    assert alone.seconds == pytest.approx(sum(run.seconds() for run in runs))


def test_what_does_not_fit() -> None:
    runs = [planned("small", start=2**20), planned("large", start=2**60, weights=2**60, steps=200)]
    plan = plan_of(runs)
    memory, disk = plan.lacking()
    assert memory.startswith("memory: 1.05e+06 TiB")
    assert memory.endswith("too large by itself: large")
    assert disk.startswith("disk: ")
    assert f"DOES NOT FIT  {memory}" in plan.totals(0.0)
    assert plan_of(runs[:1]).lacking() == []


def test_jobs_of_a_cluster() -> None:
    keys = {"array_parallelism": 2, "cpus_per_task": 4, "gpus_per_node": 1, "timeout_min": 1, "signal_delay_s": 20}
    cluster = Cluster.of("submitit_slurm", {**keys, "mem_gb": None})
    assert cluster == Cluster("submitit_slurm", 2, 4, 1, 40.0, None)
    runs = [planned(str(steps), steps=steps, step=1.0) for steps in (100, 50, 50)]
    plan = plan_of(runs, threads=None, cluster=cluster)
    seconds = [run.seconds(4) for run in runs]
    assert plan.seconds == pytest.approx(seconds[1] + seconds[2])
    text = plan.totals(0.0)
    assert "3 jobs, 2 at once" in text
    assert "requeued 2 times under hydra.launcher.timeout_min" in text
    assert f"{sum(seconds) / 3600:.3g} GPU hours" in text
    little = Cluster.of("submitit_slurm", {**keys, "mem_gb": 1e-3})
    assert "of hydra.launcher.mem_gb" in plan_of(runs, cluster=little).lacking()[0]


RAY = {"init": {"address": None, "num_cpus": None}, "remote": {"num_cpus": 2}}


@pytest.mark.parametrize(
    ("launcher", "keys", "at_once", "cores"),
    [
        ("joblib", {"n_jobs": -1}, 4, 1),
        ("joblib", {"n_jobs": -2}, 3, 1),
        ("joblib", {"n_jobs": -9}, 1, 4),
        ("joblib", {"n_jobs": 2}, 2, 2),
        ("joblib", {"n_jobs": 8}, 8, 1),
        ("basic", {}, 1, 4),
        ("submitit_local", {"timeout_min": 60, "cpus_per_task": None, "mem_gb": 1}, None, None),
        ("ray", {"ray": RAY}, 2, 2),
        ("ray", {"ray": {**RAY, "init": {"address": None, "num_cpus": 2}}}, 1, 2),
    ],
)
def test_launchers_on_this_machine(
    launcher: str, keys: dict[str, object], at_once: int | None, cores: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many runs share its cores and its memory, each a process with imports and data of its own."""
    monkeypatch.setattr(plans, "available_cores", lambda: 4)
    cluster = Cluster.of(launcher, keys)
    assert cluster == Cluster(launcher, at_once, cores, here=True)
    runs = [planned(str(k), steps=100, step=1.0, start=2**20 * k) for k in range(1, 7)]
    plan = plan_of(runs, threads=None, cluster=cluster)
    together = min(at_once or 6, 6)
    largest = sum(2**20 * k + PROCESS for k in range(7 - together, 7))
    assert plan.memory == together * plan.shared + largest
    # No more than there are cores go on at a time.
    rounds = -(-6 // min(together, 4 // (cores or 1)))
    assert plan.seconds == pytest.approx(rounds * runs[0].seconds(cores or 1))
    text = plan.totals(0.0)
    assert f"{f'{at_once} at once' if at_once else 'all at once'}; the longest" in text
    assert "; on 4 cores that nothing else uses; steps timed" in text
    assert f"at the peak, of {estimate.size(plans.machine_memory())}; imports and data are" in text
    assert "a node may be" not in text
    assert "DOES NOT FIT" not in text
    monkeypatch.setattr(plans, "machine_memory", lambda: plan.memory - 1)
    (memory,) = plan.lacking()
    assert "of memory; " in memory
    assert memory.endswith("hydra/launcher=local threads=1 takes the least" if together > 1 else "by itself: 6")


def test_a_ray_cluster_that_runs_already_is_another_machine() -> None:
    cluster = Cluster.of("ray", {"ray": {**RAY, "init": {"address": "auto", "num_cpus": None}}})
    assert cluster == Cluster("ray")
    assert "a node may be faster or slower" in plan_of([planned()], cluster=cluster).totals(0.0)


# -- the command -----------------------------------------------------------------------------------------------------


def test_the_command_writes_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    particles = ["particles.first=256", "particles.last=64"]
    assert here("sweep", *SWEEP, "widths=[3,5,inf]", *particles, "dir=s", "--dry-run") == 0
    out, err = capfd.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert {line.split()[0] for line in lines[1:4]} == {"width=3", "width=5", "width=inf"}
    assert [line.split()[0] for line in lines[5:]] == ["time", "memory", "disk", "steps"]
    assert list(folder.iterdir()) == []


def test_resume_counts_what_is_left(capfd: pytest.CaptureFixture[str]) -> None:
    assert here("sweep", *SWEEP, "dir=s") == 0
    before = {p: p.read_bytes() for p in Path("s").rglob("*") if p.is_file()}
    capfd.readouterr()
    assert here("sweep", "dir=s", "resume=true", "--dry-run") == 0
    assert capfd.readouterr().out.strip() == "2 of 2 runs are done"
    assert here("sweep", "dir=s", "resume=true", "widths=[3,5,6]", "--dry-run") == 0
    out = capfd.readouterr().out
    assert out.startswith("2 of 3 runs are done\n")
    assert re.search(r"^width=6 .* 40 ", out, re.M)
    assert "width=3" not in out
    assert here("sweep", "dir=s", "resume=true", "steps=100", "--dry-run") == 0
    out = capfd.readouterr().out
    assert len(re.findall(r"^ *width=\w+ +\S+ +60 ", out, re.M)) == 2
    for words, message in {
        ("resume=true", "alpha=2"): "alpha=2.0: s/width=3 was started with",
        ("resume=true", "widths=[3]"): "dir=s: holds width=5, which the sweep",
        tuple(SWEEP): "dir=s: holds a sweep already",
    }.items():
        assert here("sweep", *words, "dir=s", "--dry-run") == 2
        assert capfd.readouterr().err.startswith(f"mfrun: {message}")
    assert {p: p.read_bytes() for p in Path("s").rglob("*") if p.is_file()} == before


def test_bad_input(capfd: pytest.CaptureFixture[str]) -> None:
    write_arrays(Path("a.npz"))
    for words, message in {
        (*SWEEP, "alpha=-1"): "alpha=-1.0: a learning rate",
        (*SWEEP, "activation=rely"): "activation=rely: unknown",
        ("dataset=mnist", "dataset.root=no", "dataset.download=false"): "dataset.root=no: no readable MNIST",
        (*ARRAYS, "loss=logistic"): "loss=logistic: does not fit",
        ("resume=true",): "dir=s: no sweep to resume here",
    }.items():
        assert here("sweep", *words, "dir=s", "--dry-run") == 2
        err = capfd.readouterr().err
        assert err.startswith(f"mfrun: {message}")
        assert len(err.splitlines()) == 1
    assert not Path("s").exists()


def test_a_sweep_that_does_not_fit(capfd: pytest.CaptureFixture[str]) -> None:
    assert here("sweep", *TINY[2:], "widths=[3,1000000]", "dir=s", "--dry-run") == 1
    assert "DOES NOT FIT  memory: " in capfd.readouterr().out


def test_the_flag_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert here("sweep", "--help") == 0
    assert "--dry-run" in capsys.readouterr().out
    assert completion.candidates("mfrun sweep --dr", COMMANDS) == ["--dry-run"]
    assert completion.candidates("mfrun train --dr", COMMANDS) == []
    assert here("train", *TINY, "--dry-run") == 2


@pytest.mark.parametrize(
    "words",
    [
        "width=7 replicates=3",
        "width=inf depth=3 init.tau3=0.1",
        "width=inf depth=5 init.tau3=0.1 replicates=2",
        "width=inf depth=4 init=embedding init.m=2",
        "width=inf operation=of_sum depth=3",
        "width=1e9 neurons=16 depth=4 stand_in.first=32",
    ],
)
def test_operations_are_those_of_the_weights(words: str) -> None:
    """Every weight of every network that is trained takes one product with each sample in each of three passes."""
    few = ["particles.first=64", "particles.last=32", "particles.inner=32"]
    e = experiment("dataset.d=5", "batch=10", *few, *words.split())
    network = e.network()
    weights = sum(w.numel() for part in network.parts for w in part.W)
    assert e.flops == 6 * 10 * weights


def test_operations_of_a_convolution() -> None:
    """A weight meets every pixel that its filter is laid on, in every set and in their union."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (30, 6, 5, 2), dtype=np.uint8), rng.integers(0, 3, 30)
    np.savez("a.npz", x_train=x[:20], y_train=y[:20], x_test=x[20:], y_test=y[20:])
    words = ["architecture=cnn", "architecture.layers=[{kernel:3},{kernel:3,stride:2}]", "depth=3", "init.tau3=0.1"]
    few = ["particles.first=64", "particles.last=32", "particles.inner=32"]
    e = experiment(*ARRAYS, *words, *few, "width=inf", "batch=10")
    network, laid = e.network(), [6 * 5, 3 * 3, 1]
    assert e.flops == 60 * sum(k * w.numel() for part in network.parts for k, w in zip(laid, part.W, strict=True))


def test_shapes_of_a_width_that_nothing_could_hold() -> None:
    """They are counted, biases among them, and not drawn."""
    e = experiment("width=1e12", "depth=3", "dataset.d=5", "init.tau3=0.1")
    assert e.flops == pytest.approx(600 * 1e24, rel=1e-6)
