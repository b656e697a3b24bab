"""Every kind of bad command line: exit code 2, one line that names the key and the value, and nothing written."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from formats import write_arrays, write_mnist

from mfrun import cli

# (command line, what the one line must say; {dir} is the test's folder). The line's KEY=VALUE stands in it as typed.
LINES = [
    # unknown keys
    ("train widht=3", "widht=3: unknown key; .*did you mean width?"),
    ("train batchsize=3", "batchsize=3: unknown key; .*did you mean batch?"),
    ("train foo=1", "foo=1: unknown key; mfrun train --help lists them$"),
    ("train +foo=1", "foo=1: unknown key"),
    ("train ++widht=1", "widht=1: unknown key; did you mean width?"),
    ("train ~foo", "^mfrun: ~foo: unknown key"),
    ("train ~width", "width=.*removed.*: is needed"),
    ("train ~seed.init", "^mfrun: ~seed.init: "),
    ("train ~activation", "activation.name=.*: names the activation"),
    ("train init.tau4=1", "init.tau4=1: unknown key; keys here are law, tau1, "),
    ("train +init.tau4=1", "init.tau4=1: unknown key; .*did you mean tau"),
    ("train seed.foo=3", "seed.foo=3: unknown key; keys here are init, data, eval"),
    ("train dataset.foo=1", "dataset.foo=1: unknown key; keys here are d, delta"),
    ("train +dataset.foo=1", "dataset.foo=1: unknown key; keys here are d, delta"),
    ("train +dataset.delt=1", "dataset.delt=1: unknown key; .*did you mean delta?"),
    ("train activation.slope=1", "activation.slope=1: unknown key; activation has no keys"),
    ("train +activation.slope=1", "activation.slope=1: unknown key; no keys here"),
    ("train schedule.p=1", "schedule.p=1: unknown key; keys here are warmup, multipliers"),
    ("train particles.foo=1", "particles.foo=1: unknown key; keys here are first, inner, last, nodes"),
    ("train +particles.foo=1", "particles.foo=1: unknown key; keys here are first, inner, last, nodes"),
    ("train hydra.foo=1", "hydra.foo=1"),
    # what does not fit the machine, or other keys
    ("train width=1000000", "width=1e6: its weights take .* of memory; with neurons=256 so many stand for it"),
    ("sweep widths=[4,1000000]", "width=1e6: its weights take .* of memory; with neurons=256 so many stand for it"),
    ("train evaluation.kernels=60 evaluation.samples=50", "evaluation.kernels=60: at most evaluation.samples=50"),
    ("predict nosuch", "nosuch: no such folder, and not of the form KEY=VALUE"),
    # unknown groups, options and components
    ("train dataset=minst", "dataset=minst: unknown; one of arrays, .*did you mean mnist?"),
    ("train dataset.name=minst", "dataset.name=minst: unknown; .*did you mean mnist?"),
    ("train activation=rleu", "activation=rleu: unknown; .*did you mean relu?"),
    ("train architecture=conf", "architecture=conf: unknown; one of .*dense"),
    ("train loss=mse", "loss=mse: unknown; one of cross_entropy, huber, logistic, squared"),
    ("train schedule=step", "schedule=step: unknown; one of constant, "),
    ("train init=cauchy", "init=cauchy: unknown; one of embedding, normal, rademacher, uniform"),
    ("train init.law=cauchy", "init.law=cauchy: unknown; one of normal, rademacher, uniform"),
    ("train activation.name=no.module:Name", "activation.name=no.module:Name: cannot be imported"),
    ("train activation.name=math:nothing", "activation.name=math:nothing: cannot be imported"),
    ("train 'activation=[tanh,relu]'", r"activation=\[tanh,relu\]: one of .*; mfrun sweep takes KEY=A,B"),
    ("train loss=null", "loss=null: one of cross_entropy, "),
    ("train init.law=math:sin", "init.law=math:sin: no law: it cannot be called without arguments"),
    ("sweep 'seed.init=range(0)'", r"seed.init=range\(0\): holds no value"),
    ("train 'batch=${oc.env:NOPE}'", "batch=.*: KeyError raised while resolving interpolation"),
    ("train 'width=${foo}'", "width=.*: Interpolation key 'foo' not found"),
    ("train device=meta", "device=meta: not available"),
    ("train replicates=1000000000", "its weights take .* of memory"),
    (
        "train init=embedding init.m=4 init.mu2=0 scaling=ntk",
        "init=embedding: its weights have means; with scaling=ntk",
    ),
    (f"sweep title=a,{300 * 'b'}", "the values of swept keys name a run's folder, .* longer than 255 bytes"),
    # types
    ("train depth=two", "depth=two: must be a whole number"),
    ("train depth=2.5", "depth=2.5: must be a whole number"),
    ("train steps=1.5e0", "steps=1.5e0: must be a whole number"),
    ("train lr=0.1", "lr=0.1: unknown key; the learning rate is alpha"),
    ("train optimizer=adam", "optimizer=adam: unknown key; training is plain SGD, as in the paper"),
    ("train --width 30", "--width: a key is set without dashes, as in width=..."),
    ("sweep 'activation=glob(*)'", r"activation=glob\(\*\): give the values, KEY=A,B,... or KEY=range"),
    ("sweep 'alpha=interval(0,1)'", r"alpha=interval\(0,1\): give the values, KEY=A,B"),
    ("sweep width=3,4 'widths=[5]'", r"width=3,4, widths=\[5\]: both say what widths the sweep has; give one of them"),
    (
        "sweep 'widths=[5]' hydra.sweep.subdir=x",
        "hydra.sweep.subdir=x: the folders of a sweep are named after its swept keys",
    ),
    ("train --latest", "--latest: goes on with the newest one below outputs, and needs resume=true beside it"),
    ("train --latest resume=true", "outputs: no run here yet"),
    ("train --latest resume=true dir=a", "--latest: and dir=a names another; give one of them"),
    ("train --config-path conf", "--config-path conf: mfrun's own files stay; --config-dir adds a folder of yours"),
    ("train -cp conf --cfg job", "--config-path conf: mfrun's own files stay"),
    ("train resume=null", "resume=null: may not be null"),
    ("train particles=3", "particles=3: is a node"),
    ("train stand_in=[1]", r"stand_in=\[1\]: is a node"),
    (
        "train 'architecture.ratios=[[1,1],[1,2]]'",
        r"architecture.ratios=\[\[1, 1\], \[1, 2\]\]: is a list of single values",
    ),
    ("train 'architecture.ratios=[a,b]'", r"architecture.ratios=\[a, b\]: each must be a number"),
    ("train steps=null", "steps=null: "),
    ("train alpha=fast", "alpha=fast: must be a number"),
    ("train resume=maybe", "resume=maybe: must be true or false"),
    ("train seed=3", "seed=3: is a node"),
    ("train dataset.d=big", "dataset.d=big: must be a whole number"),
    ("train architecture.biases=maybe", "architecture.biases=maybe: must be true or false"),
    ("train architecture.ratios=2", "architecture.ratios=2: must be a list"),
    ("train evaluation.test_functions=mean", "evaluation.test_functions=mean: must be a list"),
    ("train dataset=fashion_mnist dataset.download=maybe", "dataset.download=maybe: must be true or false"),
    (
        "train budget=0.5 schedule=cosine",
        "budget=0.5: is a part of a run, and schedule=cosine stretches over the whole of any",
    ),
    # values
    ("train width=0", "width=0: a width is"),
    ("train width=-5", "width=-5: a width is"),
    ("train width=abc", "width=abc: a width is"),
    ("train width=1.5", "width=1.5: a width is"),
    ("train width=true", "width=true: a width is"),
    ("train width=null", "width=null: a width is"),
    ("train width=-inf", "width=-inf: a width is"),
    ("train width=nan", "width=nan: a width is"),
    ("train 'width=[10]'", r"width=\[10\]: a width is"),
    ("train depth=1", "depth=1: must be at least 2"),
    ("train alpha=-1", "alpha=-1.0: .* > 0"),
    ("train alpha=0", "alpha=0.0: .* > 0"),
    ("train alpha=nan", "alpha=nan: .* > 0"),
    ("train alpha=inf", "alpha=inf: a learning rate is a finite number"),
    ("train batch=0", "batch=0: must be at least 1"),
    ("train steps=-1", "steps=-1: must be at least 0"),
    ("train init.tau1=nan", "init.tau1=nan: a standard deviation is a finite number"),
    ("train init.tau2=-1", "init.tau2=-1.0: a standard deviation is a finite number >= 0"),
    ("train init.tau3=inf", "init.tau3=inf: a standard deviation is a finite number"),
    ("train init.mu2=inf", "init.mu2=inf: must be a finite number"),
    ("train dataset.delta=2", "dataset.delta=2.0: must lie between 0 and 1"),
    ("train dataset.delta=0", "dataset.delta=0.0: must lie between 0 and 1"),
    ("train dataset.d=0", "dataset.d=0: must be at least 1"),
    ("train loss=huber loss.delta=0", "loss.delta=0.0: must be positive"),
    ("train schedule=power schedule.p=-1", "schedule.p=-1.0: must be >= 0"),
    ("train schedule=exponential schedule.time=0", "schedule.time=0.0: must be a time"),
    ("train schedule=cosine schedule.final=2", "schedule.final=2.0: must lie between 0 and 1"),
    (
        "train schedule=piecewise 'schedule.times=[3,1]'",
        r"schedule.times=\[3.0, 1.0\]: must be positive and increasing",
    ),
    ("train schedule=piecewise 'schedule.values=[1]'", r"schedule.values=\[1.0\]: needs one value more"),
    ("train schedule.warmup=-1", "schedule.warmup=-1.0: must be a time"),
    ("train 'schedule.multipliers=[1,2]'", r"schedule.multipliers=\[1.0, 2.0\]: depth=4 needs 4 factors"),
    ("train 'schedule.multipliers=[1,2,-1,1]'", r"schedule.multipliers=.*: every factor must be >= 0"),
    ("train 'architecture.ratios=[1,2]'", r"architecture.ratios=\[1.0, 2.0\]: depth=4 has 3 hidden layers"),
    ("train 'architecture.ratios=[1,2,0]'", "architecture.ratios=.*: every ratio n_l / n must be positive"),
    ("train 'architecture.ratios=[1,1,0.001]'", "architecture.ratios=.*: leaves a layer without neurons at width=100"),
    ("train width=inf 'architecture.ratios=[1,2]'", "architecture.ratios=.*: depth=4 has 3 hidden layers"),
    ("train seed.init=-1", "seed.init=-1: must be at least 0"),
    ("train seed.data=-1", "seed.data=-1: must be at least 0"),
    ("train seed.eval=-1", "seed.eval=-1: must be at least 0"),
    ("train replicates=0", "replicates=0: must be at least 1"),
    ("train replicate_data=foo", "replicate_data=foo: one of shared, independent"),
    ("train sampling=random", "sampling=random: one of iid, epochs"),
    ("train dtype=float16", "dtype=float16: one of float32, float64"),
    ("train precision=half", "precision=half: one of float32, tf32, bf16"),
    ("train precision=tf32 device=cpu", "precision=tf32: is what GPUs offer; on a CPU float32 or bf16"),
    ("train precision=bf16 dtype=float64", "precision=bf16: rounds the factors of dtype=float32"),
    ("train architecture=cnn precision=bf16", "precision=bf16: is for dense networks"),
    ("train device=tpu", "device=tpu: not available"),
    ("train device=cuda:99", "device=cuda:99: not available"),
    ("train threads=0", "threads=0: must be at least 1"),
    ("train checkpoint_seconds=0", "checkpoint_seconds=0.0: must be a number of seconds > 0"),
    ("train evaluation.points_per_decade=0", "evaluation.points_per_decade=0: must be at least 1"),
    ("train evaluation.samples=0", "evaluation.samples=0: must be at least 1"),
    ("train activation.name=math:sqrt", r"activation.name=math:sqrt: fails \(\w+Error"),
    ("train 'evaluation.test_functions=[mean,statistics:mean]'", "the column mean is taken"),
    ("train 'evaluation.test_functions=[foo]'", "evaluation.test_functions=foo: unknown; one of margin, mean"),
    ("train 'evaluation.test_functions=[math:sqrt]'", r"evaluation.test_functions=sqrt: fails \(TypeError"),
    ("train width=inf particles.sets=1", "particles.sets=1: must be at least 2"),
    ("train width=inf particles.first=7", "particles.first=7: must be a multiple of"),
    ("train width=inf particles.nodes=1", "particles.nodes=1: must be at least 3"),
    ("train width=inf particles.method=foo", "particles.method=foo: one of sobol, antithetic, plain"),
    # what does not fit together
    (
        "train loss=cross_entropy",
        "loss=cross_entropy: does not fit gaussians's sign labels; it takes classes; huber, logistic, squared fit them",
    ),
    ("train dataset=arrays dataset.path=classes.npz loss=logistic", "loss=logistic: does not fit .* classes labels"),
    ("train dataset=arrays dataset.path=reg.npz loss=cross_entropy", "loss=cross_entropy: does not fit .* regression"),
    ("train dataset=mnist dataset.root=. loss=logistic", "loss=logistic: does not fit mnist's classes labels"),
    (
        "train dataset=arrays dataset.path=reg.npz 'evaluation.test_functions=[margin]'",
        "evaluation.test_functions=margin: needs classes, not regression",
    ),
    # presets, loggers
    ("train figure=fig99", "figure=fig99: unknown; one of fig1, "),
    ("sweep +figure=fig66", "figure=fig66: unknown; one of fig1, .*did you mean fig6"),
    (
        "train logger=tensorbord",
        "logger=tensorbord: unknown; one of csv, mlflow, tensorboard, wandb; did you mean tensorboard?",
    ),
    ("train logger.name=foo", "logger.name=foo: unknown; one of csv, mlflow, tensorboard, wandb"),
    ("train logger=csv +logger.figure=true", "logger.figure=true: unknown key; no keys here"),
    # data that are not there
    ("train dataset=arrays", "dataset.path=.missing.: has no default and must be given"),
    ("train dataset=arrays dataset.path=", "dataset.path='': names the file, .npz, "),
    ("train dataset=arrays dataset.path=no.npz", "dataset.path=no.npz: no such file"),
    ("train dataset=arrays dataset.path=afile", "dataset.path=afile: not an .npz file"),
    ("train dataset=arrays dataset.path=classes.npz dataset.task=foo", "dataset.task=foo: one of auto, sign, classes"),
    (
        "train dataset=mnist dataset.download=false dataset.root=no",
        "dataset.root=no: no readable MNIST .*download=true",
    ),
    ("train dataset=cifar10 dataset.download=false dataset.root=afile", "dataset.root=afile: no readable CIFAR10"),
    ("sweep dataset=arrays dataset.path=no.npz", "dataset.path=no.npz: no such file"),
    # the syntax
    ("train foo", "foo: not of the form KEY=VALUE$"),
    ("train width==3", "width==3: not of the form KEY=VALUE$"),
    ("train =3", "=3: not of the form KEY=VALUE$"),
    ("train 'widths=[1'", r"widths=\[1: not of the form KEY=VALUE"),
    ("train --foo", "unrecognized arguments: --foo"),
    ("train --cfg foo", "invalid choice: 'foo'"),
    ("train --cfg job foo=1", "foo=1: unknown key"),
    ("train --config-dir nowhere", "--config-dir nowhere: no such folder"),
    ("train --config-name foo", "foo"),
    ("train --config-dir", "--config-dir.*expected one argument"),
    ("status . b", "unrecognized arguments: b"),
    ("tarin width=3", "tarin: unknown command; .*did you mean train?"),
    ("completion", "completion: give one shell of bash, zsh, fish"),
    ("completion tcsh", "completion tcsh: give one shell of bash, zsh, fish"),
    # several values
    ("train width=10,20", "width=10,20: several values; mfrun sweep"),
    ("train 'width=choice(10,20)'", r"width=choice\(10,20\): several values; mfrun sweep"),
    ("train activation=relu,tanh", "activation=relu,tanh: several values; mfrun sweep"),
    ("sweep 'widths=[]'", r"widths=\[\]: a sweep needs at least one width"),
    ("sweep 'widths=[10,10]'", r"widths=\[10, 10\]: holds a width twice"),
    ("sweep 'widths=[10,abc]'", "widths=abc: a width is"),
    ("sweep 'widths=[10,0]'", "widths=0: a width is"),
    ("sweep widths=10", "widths=10: must be a list"),
    ("sweep width=10,10", "width=10: given twice"),
    ("sweep 'widths=[4]' alpha=0.1,0.10", "width=4,alpha=0.1: given twice"),
    (
        "sweep 'widths=[4]' title=a/b,a_b",
        "width=4,title=a_b: given twice, or by two values that make one folder's name",
    ),
    ("sweep 'widths=[4]' alpha=0.1,-1", "alpha=-1.0: a learning rate"),
    ("sweep 'widths=[4]' activation=relu,foo", "activation=foo: unknown; one of"),
    ("sweep 'widths=[4]' foo=1,2", "foo=1: unknown key"),
    ("sweep 'widths=[4,inf]' particles.sets=1", "particles.sets=1: must be at least 2"),
    # folders
    ("train resume=true", "resume=true: name what to go on with, dir=FOLDER; .* with --latest"),
    ("train resume=true dir=no", "dir=no: no run to resume here"),
    ("sweep resume=true dir=no", "dir=no: no sweep to resume here"),
    ("train dir=afile", "dir=afile: .*is a file, not a folder"),
    ("train dir=afile/sub", "dir=afile/sub: .*afile is a file, not a folder"),
    ("sweep dir=afile", "dir=afile: .*is a file, not a folder"),
    ("train hydra.run.dir=afile", "dir=afile: .*is a file, not a folder"),
    ("train dir=", "dir='': names the folder"),
    ("status no", "no: no such folder"),
    ("status afile", "afile: no run here"),
]


@pytest.fixture
def folder(folder: Path) -> Path:
    """A working folder with a few data sets and a plain file."""
    write_arrays(folder / "classes.npz", labels="classes")
    write_arrays(folder / "reg.npz", labels="regression")
    write_mnist(folder)
    (folder / "afile").write_text("not a folder")
    return folder


def listing(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def run(argv: list[str], capfd: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        cli.main(argv)
    out, err = capfd.readouterr()
    return int(stopped.value.code or 0), out, err


@pytest.mark.parametrize(("line", "message"), LINES, ids=[line for line, _ in LINES])
def test_bad_line(folder: Path, capfd: pytest.CaptureFixture[str], line: str, message: str) -> None:
    before = listing(folder)
    # A line that is let through by mistake trains nothing.
    argv = shlex.split(line)
    argv += ["steps=0"] if argv[0] in ("train", "sweep") and "steps=" not in line and argv[-1][:2] != "--" else []
    code, out, err = run(argv, capfd)
    assert code == 2, err
    assert re.search(message.replace("mean width?", r"mean width\?"), err.strip()), err
    assert out == ""
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1, err
    assert listing(folder) == before


# A run's folder, as far as it is looked at before it is refused.
CONFIG = "width: 4\nseed: {init: 0, data: 0}\n"
ROWS = "step,t,replicate,population_loss,wall_seconds\n0,0,0,1.0,0.1\n"


def arrays(**changes: np.ndarray | None) -> Callable[[Path], None]:
    """a.npz with some of its arrays replaced; None leaves one out."""

    def make(folder: Path) -> None:
        write_arrays(folder / "a.npz")
        with np.load(folder / "a.npz") as whole:
            kept = {**whole, **changes}
        np.savez(folder / "a.npz", **{k: v for k, v in kept.items() if v is not None})

    return make


def text(**files: str) -> Callable[[Path], None]:
    """Files by name."""
    return binary(**{name: content.encode() for name, content in files.items()})


def binary(**files: bytes) -> Callable[[Path], None]:
    """The same of bytes."""

    def make(folder: Path) -> None:
        for name, content in files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)

    return make


def idx(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """One of MNIST's files, changed."""

    def make(folder: Path) -> None:
        file = folder / "MNIST" / "raw" / name
        file.write_bytes(change(file.read_bytes()))

    return make


def instead(name: str) -> Callable[[Path], None]:
    """A folder in the place of a file."""

    def make(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir(parents=True)

    return make


IMAGES, LABELS, TEST = "train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"
MNIST = "train dataset=mnist dataset.root=. dataset.download=false"
ARRAYS = "train dataset=arrays dataset.path=a.npz loss=cross_entropy"
NO_MNIST = "dataset.root=.: no readable MNIST files in .*"
NAN = np.full((20, 3), np.nan, np.float32)
# (what is wrong, what makes it, command line, what the one line must say)
FILES = [
    ("wrong magic number", idx(IMAGES, lambda b: b"\0\0\x0d" + b[3:]), MNIST, NO_MNIST + "is no idx file of 3 axes"),
    ("labels in place of images", idx(IMAGES, lambda b: b"\0\0\x08\x01" + b[4:]), MNIST, NO_MNIST + "no idx file"),
    ("images cut short", idx(IMAGES, lambda b: b[:-1]), MNIST, NO_MNIST + "holds 15679 bytes, and 15680 are announced"),
    ("images too long", idx(TEST, lambda b: b + b"\0"), MNIST, NO_MNIST + "holds 7841 bytes, and 7840 are announced"),
    ("header cut short", idx(LABELS, lambda b: b[:6]), MNIST, NO_MNIST + "is no idx file of 1 axes"),
    ("empty images", idx(IMAGES, lambda b: b""), MNIST, NO_MNIST + "is no idx file of 3 axes"),
    ("empty labels", idx(LABELS, lambda b: b""), MNIST, NO_MNIST + "is no idx file of 1 axes"),
    ("labels out of range", idx(LABELS, lambda b: b[:-1] + b"\x0a"), MNIST, NO_MNIST + "do not fit together"),
    (
        "a label less",
        idx(LABELS, lambda b: b[:7] + bytes([b[7] - 1]) + b[8:-1]),
        MNIST,
        NO_MNIST + "images and labels do not fit together",
    ),
    ("no images", idx(IMAGES, lambda b: b[:7] + b"\0" + b[8:16]), MNIST, NO_MNIST + "do not fit together"),
    ("a folder for the images", instead(f"MNIST/raw/{IMAGES}"), MNIST, NO_MNIST),
    ("NaN pixels", arrays(x_train=NAN), ARRAYS, "dataset.path=a.npz: x_train holds NaN or infinity"),
    ("infinite pixels", arrays(x_test=np.full((10, 3), np.inf)), ARRAYS, "dataset.path=a.npz: x_test holds NaN or inf"),
    (
        "objects",
        arrays(x_train=np.full((20, 3), {})),
        ARRAYS,
        "dataset.path=a.npz: cannot be read as .npz .*Object",
    ),
    ("text", arrays(x_train=np.full((20, 3), "a")), ARRAYS, "dataset.path=a.npz: x_train has dtype <U1; it must hold"),
    ("complex numbers", arrays(x_train=NAN * 1j), ARRAYS, "dataset.path=a.npz: x_train has dtype complex"),
    ("missing labels", arrays(y_test=None), ARRAYS, "dataset.path=a.npz: the file has no y_test"),
    ("a label more", arrays(y_train=np.arange(21) % 3), ARRAYS, "x_train has 20 samples, y_train 21"),
    ("other labels", arrays(y_train=-np.arange(20)), ARRAYS, "y_test holds label 1, which y_train has not"),
    ("test labels out of range", arrays(y_test=np.arange(10)), ARRAYS, "y_test holds label 3, which y_train has not"),
    ("one class", arrays(y_train=np.zeros(20, int)), ARRAYS, "y_train holds a single class"),
    ("other features", arrays(x_test=np.zeros((10, 4))), ARRAYS, "x_train has 3 numbers a sample, x_test 4"),
    ("one axis", arrays(x_train=np.zeros(20)), ARRAYS, r"x_train has shape \(20,\); it needs \(samples, features\)"),
    ("no samples", arrays(x_train=np.zeros((0, 3))), ARRAYS, r"x_train has shape \(0, 3\)"),
    ("empty .npz", text(**{"a.npz": ""}), ARRAYS, "dataset.path=a.npz: not an .npz file"),
    ("a folder for .npz", instead("a.npz"), ARRAYS, "dataset.path=a.npz: is a folder, not a file"),
    (
        "a preset of one's own, misspelt",
        text(**{"mine/figure/my_own.yaml": "# @package _global_\nwidth: 4\n"}),
        "train --config-dir mine figure=my_won",
        "figure=my_won: unknown; one of .*did you mean my_own?",
    ),
    (
        "YAML that does not parse",
        text(**{"mine/schedule/bad.yaml": "name: [power\np: 1\n"}),
        "train --config-dir mine schedule=bad",
        r"mine/schedule/bad.yaml: line 2: not YAML \(expected",
    ),
    (
        "YAML of another kind",
        text(**{"mine/schedule/bad.yaml": "name: nothing\n"}),
        "train --config-dir mine schedule=bad",
        "schedule.name=nothing: unknown; one of constant",
    ),
    (
        "a configuration that does not parse",
        text(**{"r/config.yaml": "width: [4\n"}),
        "plot r",
        "r/config.yaml: cannot",
    ),
    ("a configuration that is a list", text(**{"r/config.yaml": "- 4\n"}), "plot r", "r/config.yaml: not a mapping"),
    ("another program's configuration", text(**{"r/config.yaml": "lr: 4\n"}), "plot r", "r: its configuration is not"),
    ("a width that is none", text(**{"r/config.yaml": "width: big\n"}), "plot r", "r: width=big: a width is"),
    ("an empty configuration", text(**{"r/config.yaml": ""}), "plot r", "r: its configuration is not one of mfrun"),
    ("a run without rows", text(**{"r/config.yaml": CONFIG}), "plot r", "r: no run here has written a row yet"),
    (
        "another program's CSV",
        text(**{"r/config.yaml": CONFIG, "r/metrics.csv": "epoch,loss\n1,2\n"}),
        "plot r",
        "r/metrics.csv: not a metrics file of mfrun",
    ),
    (
        "text in a CSV",
        text(**{"r/config.yaml": CONFIG, "r/metrics.csv": ROWS + "one,0,0,1.0,0.1\n"}),
        "plot r",
        "r/metrics.csv: not a metrics file of mfrun",
    ),
    (
        "text in a column of numbers",
        text(**{"r/config.yaml": CONFIG, "r/metrics.csv": ROWS + "2,0.02,0,one,0.1\n"}),
        "plot r",
        "r/metrics.csv: not a metrics file of mfrun: column population_loss holds more than numbers",
    ),
    (
        "bytes that are no text",
        binary(**{"r/config.yaml": CONFIG.encode(), "r/metrics.csv": ROWS.encode() + b"\xff\xfe\n"}),
        "compare r",
        "r/metrics.csv: not a metrics file of mfrun",
    ),
    (
        "an option that there is not",
        text(**{"r/config.yaml": CONFIG, "r/metrics.csv": ROWS}),
        "plot r --foo",
        "unrecognized arguments: --foo; mfrun plot --help lists the options",
    ),
    (
        "a range the wrong way round",
        text(**{"r/config.yaml": CONFIG, "r/metrics.csv": ROWS}),
        "plot r --ylim 1,0",
        "--ylim 1,0: a range is two numbers, the smaller first",
    ),
    (
        "a size that is none",
        text(**{"r/config.yaml": CONFIG, "r/metrics.csv": ROWS}),
        "plot r --size a",
        "--size a: inches, WIDTH,HEIGHT",
    ),
    (
        "a range without curves",
        text(**{"r/config.yaml": CONFIG, "r/metrics.csv": ROWS}),
        "plot r --xlim 500,600",
        "--xlim 500,600: the curves run from",
    ),
    (
        "rows of laws",
        text(**{"r/config.yaml": CONFIG, "r/metrics.csv": ROWS}),
        "plot r --weights --facet alpha",
        "--facet alpha: not with --weights",
    ),
    (
        "a range of laws",
        text(**{"r/config.yaml": CONFIG, "r/metrics.csv": ROWS}),
        "plot r --weights --ylim 0,1",
        "--ylim 0,1: not with --weights",
    ),
    (
        "errors of laws",
        text(**{"r/config.yaml": CONFIG, "r/metrics.csv": ROWS}),
        "plot r --weights --se",
        "--se: not with --weights",
    ),
    (
        "one key for rows and lines",
        text(**{"r/config.yaml": CONFIG, "r/metrics.csv": ROWS}),
        "plot r --style alpha --facet alpha",
        "--style alpha: is told by the rows of --facet",
    ),
    (
        "a picture for a folder",
        text(**{"r/config.yaml": CONFIG, "r/metrics.csv": ROWS}),
        "compare r --out c.png",
        "--out c.png: names a folder",
    ),
    (
        "statics of several runs",
        text(**{"s/a/config.yaml": CONFIG, "s/b/config.yaml": CONFIG}),
        "statics s",
        "s: no run, and statics takes one; here are s/a, s/b",
    ),
    (
        "rows of widths",
        text(**{"r/config.yaml": CONFIG, "r/metrics.csv": ROWS}),
        "plot r --facet width",
        "--facet width: is told by the colours",
    ),
    (
        "a report into no folder",
        text(**{"r/config.yaml": CONFIG, "r/metrics.csv": ROWS}),
        "report r --out no/x.html",
        r"--out no/x.html: cannot be written \(No such file",
    ),
    (
        "a table into no folder",
        text(**{"r/config.yaml": CONFIG, "r/metrics.csv": ROWS}),
        "export r --out no/x.csv",
        "--out no/x.csv: cannot be written",
    ),
    (
        "a table of another kind",
        text(**{"r/config.yaml": CONFIG, "r/metrics.csv": ROWS}),
        "export r --out x.txt",
        "--out x.txt: the format is told by the ending, one of csv, parquet",
    ),
    (
        "a metric that is not logged",
        text(**{"r/config.yaml": CONFIG, "r/metrics.csv": ROWS}),
        "plot r --metrics foo",
        "--metrics foo: not logged; there are population_loss",
    ),
    (
        "a picture of another kind",
        text(**{"r/config.yaml": CONFIG, "r/metrics.csv": ROWS}),
        "plot r --out r.gif",
        "--out r.gif: the format is told by the ending, one of png, pdf, svg",
    ),
    (
        "a width that is not there",
        text(**{"r/config.yaml": CONFIG, "r/metrics.csv": ROWS}),
        "plot r --widths 5",
        "--widths 5: no such width here",
    ),
    (
        "a range of one number",
        text(**{"r/config.yaml": CONFIG, "r/metrics.csv": ROWS}),
        "plot r --xlim 5",
        "--xlim 5: a range is two numbers",
    ),
    ("no run", text(**{"r/notes.txt": "nothing"}), "plot r", "r: no run here"),
    ("nothing named", text(), "plot", "no run or sweep named"),
    ("no outputs", text(), "plot --latest", "outputs: no run here yet"),
    (
        "nothing to compare",
        text(**{"r/config.yaml": CONFIG, "r/metrics.csv": ROWS}),
        "compare r",
        "needs at least two widths",
    ),
    (
        "no state",
        text(**{"r/config.yaml": CONFIG, "r/metrics.csv": ROWS}),
        "statics r",
        "architecture.name=.*: names the arch",
    ),
    (
        "a sweep that does not parse",
        text(**{"s/sweep.yaml": "overrides: [\n"}),
        "sweep dir=s resume=true",
        "s/sweep.yaml",
    ),
    (
        "overrides that are none",
        text(**{"s/sweep.yaml": "overrides: 3\n"}),
        "sweep dir=s resume=true",
        "s/sweep.yaml: overrides: 3: must be a list of words",
    ),
    (
        "overrides of a run that do not parse",
        text(**{"r/config.yaml": CONFIG, "r/.hydra/overrides.yaml": "[\n"}),
        "train dir=r resume=true",
        "r/.hydra/overrides.yaml: cannot be read",
    ),
    (
        "a file for the run's folder",
        text(**{"r": ""}),
        "train dir=r resume=true",
        "dir=r: .*r is a file, not a folder",
    ),
]


@pytest.mark.parametrize(("make", "line", "message"), [f[1:] for f in FILES], ids=[f[0] for f in FILES])
def test_bad_file(
    folder: Path, capfd: pytest.CaptureFixture[str], make: Callable[[Path], None], line: str, message: str
) -> None:
    make(folder)
    before = listing(folder)
    code, out, err = run([*shlex.split(line), *(["steps=0"] if line.startswith("train dataset") else [])], capfd)
    assert code == 2, err
    assert re.search(message, err.strip()), err
    assert out == ""
    assert re.fullmatch("mfrun: [^\n]+\n", err)
    assert listing(folder) == before


def test_enough() -> None:
    """No line twice."""
    lines = [line for line, _ in LINES] + [(name, line) for name, _, line, _ in FILES]
    assert len(set(lines)) == len(lines) >= 200


def test_folder_that_holds_a_run(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    start = ["train", "dir=r", "steps=3", "width=4", "dataset.d=3", "evaluation.samples=50"]
    assert run(start, capfd)[0] == 0
    before = {p: p.read_bytes() for p in (folder / "r").rglob("*") if p.is_file()}
    refused = {
        "holds a run already; resume=true goes on": start,
        "width=5: r was started with width=4": ["train", "dir=r", "resume=true", "width=5"],
        "activation.name=tanh: r was started with": ["train", "dir=r", "resume=true", "activation=tanh"],
        "seed.data=1: r was started with seed.data=0": ["train", "dir=r", "resume=true", "seed.data=1"],
        "steps=2: r was started with steps=3; only a longer": ["train", "dir=r", "resume=true", "steps=2"],
        "dir=r: holds a run; mfrun train dir=r resume=true goes on with it": ["sweep", "dir=r", "resume=true"],
    }
    for message, argv in refused.items():
        code, out, err = run(argv, capfd)
        assert (code, out) == (2, "")
        assert message in err
        assert len(err.splitlines()) == 1
        # A refused change must not spoil the next resume.
        assert {p: p.read_bytes() for p in (folder / "r").rglob("*") if p.is_file()} == before
    assert run(["train", "dir=r", "resume=true"], capfd)[0] == 0


def test_folder_that_holds_a_sweep(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    start = ["sweep", "dir=s", "steps=3", "widths=[4,5]", "dataset.d=3", "evaluation.samples=50"]
    assert run(start, capfd)[0] == 0
    before = {p: p.read_bytes() for p in (folder / "s").rglob("*") if p.is_file()}
    refused = {
        "dir=s: holds a sweep already; resume=true": start,
        "dir=s: holds width=5, which the sweep to resume has not": ["sweep", "dir=s", "resume=true", "widths=[4,6]"],
        "dataset.d=4: s/width=4 was started with dataset.d=3": ["sweep", "dir=s", "resume=true", "dataset.d=4"],
        "dir=s: holds a sweep; mfrun sweep dir=s resume=true goes on with it": ["train", "dir=s", "resume=true"],
    }
    for message, argv in refused.items():
        code, out, err = run(argv, capfd)
        assert (code, out) == (2, "")
        assert message in err
        assert len(err.splitlines()) == 1
        assert {p: p.read_bytes() for p in (folder / "s").rglob("*") if p.is_file()} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "locked").mkdir(mode=0o500)
    code, _, err = run(["train", "dir=locked/r", "steps=0"], capfd)
    assert code == 2
    assert "dir=locked/r: no permission to write" in err


def test_debug_shows_the_traceback(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """In the place of the line; the exit code is the same."""
    for words in (["train", "width=0"], ["plot", "nowhere"]):
        code, _, err = run([*words, "--debug"], capfd)
        assert code == 2
        assert err.startswith("Traceback (most recent call last)")
        assert words[1] in err.splitlines()[-1]


REPRESENTATIVE = [
    "train widht=3",
    "train width=0",
    "train dataset=minst",
    "train dir=afile/sub steps=0",
    "sweep 'widths=[4]' alpha=0.1,-1",
]


@pytest.mark.parametrize("line", REPRESENTATIVE)
def test_bad_line_in_a_process_of_its_own(folder: Path, line: str) -> None:
    before = listing(folder)
    done = subprocess.run(
        [sys.executable, "-m", "mfrun", *shlex.split(line)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"mfrun: [^\n]+\n", done.stderr)
    assert listing(folder) == before
