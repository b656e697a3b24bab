"""Plain functions, and classes of the user's own: derivatives by autograd, wrong ones refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from commands import ARRAYS, LIMIT, TINY, curves, here
from formats import write_arrays

from mfrun.networks.activations import OfFunction as ActivationOfFunction
from mfrun.networks.activations import Tanh
from mfrun.problems.losses import OfFunction as LossOfFunction
from mfrun.problems.losses import Squared

OWN = """\
from dataclasses import dataclass

import torch

from mfrun.networks import Activation
from mfrun.problems import Loss, Task


def swish(h):
    return h * torch.sigmoid(h)


def squared(y, yhat):
    return (yhat - y).square().sum(-2)


def by_classes(y, yhat):
    return torch.logsumexp(yhat, -2) - yhat.gather(-2, y.expand(*yhat.shape[:-2], 1, -1)).squeeze(-2)


def averaged(y, yhat):
    return (yhat - y).square().mean()


def over_neurons(h):
    return torch.softmax(h, -2)


@dataclass
class Doubled(Activation):
    factor: float = 2.0

    def forward(self, h, out):
        torch.tanh(h, out=out)

    def backward(self, g, h, a, out):
        torch.mul(g, self.factor * (1 - a * a), out=out)


@dataclass
class Halved(Loss):
    factor: float = 0.5
    tasks = (Task.SIGN, Task.REGRESSION)

    def value(self, y, yhat):
        return (yhat - y).square().sum(-2)

    def gradient(self, y, yhat):
        return 2 * self.factor * (yhat - y)
"""


@pytest.fixture(autouse=True)
def own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the user's own beside the program."""
    (folder / "own_functions.py").write_text(OWN)
    monkeypatch.syspath_prepend(folder)


@pytest.mark.parametrize("stack", [(), (3,)])
def test_the_derivative_of_a_function_is_autograd_s(stack: tuple[int, ...]) -> None:
    h, g = torch.randn(*stack, 4, 5, dtype=torch.float64), torch.randn(*stack, 4, 5, dtype=torch.float64)
    mine, theirs = ActivationOfFunction(torch.tanh, "tanh"), Tanh()
    a, b = torch.empty_like(h), torch.empty_like(h)
    mine.forward(h, out=a)
    theirs.forward(h, out=b)
    torch.testing.assert_close(a, b)
    x, y = g.clone(), torch.empty_like(h)
    mine.backward(x, h, a, out=x)
    theirs.backward(g, h, b, out=y)
    torch.testing.assert_close(x, y)


def test_a_loss_of_a_function_is_the_class_s() -> None:
    y, yhat = torch.randn(2, 5, dtype=torch.float64), torch.randn(3, 2, 5, dtype=torch.float64)
    mine, theirs = LossOfFunction(lambda y, yhat: (y - yhat).square().sum(-2), "mine"), Squared()
    torch.testing.assert_close(mine.value(y, yhat), theirs.value(y, yhat))
    torch.testing.assert_close(mine.gradient(y, yhat), theirs.gradient(y, yhat))


@pytest.mark.parametrize("width", ["5", "inf"])
def test_curves_of_functions_are_those_of_the_classes(width: str) -> None:
    """float64: silu and the squared loss, once as they come and once as functions."""
    words = [*TINY, f"width={width}", *LIMIT, "steps=30", "dtype=float64", "alpha=0.1"]
    assert here("train", *words, "activation=silu", "dir=a") == 0
    own = ["activation.name=own_functions:swish", "loss.name=own_functions:squared"]
    assert here("train", *words, *own, "dir=b") == 0
    for x, y in zip(curves("a"), curves("b"), strict=True):
        assert {k: float(v) for k, v in x.items()} == pytest.approx({k: float(v) for k, v in y.items()}, rel=1e-6)


def test_torch_s_own_functions_and_a_loss_of_classes() -> None:
    assert here("train", *TINY, "steps=10", "activation.name=torch.nn.functional:mish", "dir=a") == 0
    write_arrays(Path("a.npz"))
    assert here("train", *ARRAYS, "steps=20", "dir=b") == 0
    assert here("train", *ARRAYS, "steps=20", "loss.name=own_functions:by_classes", "dir=c") == 0
    for x, y in zip(curves("b"), curves("c"), strict=True):
        assert {k: float(v) for k, v in x.items()} == pytest.approx({k: float(v) for k, v in y.items()}, rel=1e-4)


def test_a_class_with_the_right_derivative_trains() -> None:
    words = ["activation=tanh", "activation.name=own_functions:Doubled", "+activation.factor=1.0"]
    assert here("train", *TINY, "steps=10", *words, "dir=a") == 0
    assert here("train", *TINY, "steps=10", "activation=tanh", "dir=b") == 0
    assert curves("a") == curves("b")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("activation.name=own_functions:Doubled", "its backward is not the derivative of its forward: off by 1 of the"),
        ("activation.name=own_functions:over_neurons", "must act entry by entry; here entries depend on one another"),
        ("activation.name=torch:zeros", "fails (TypeError"),
        ("activation.name=torch:tanh +activation.slope=2", "activation.slope=2: unknown key; a function has no keys"),
        ("loss.name=own_functions:Halved", "its gradient is not the derivative of its value: off by 0.5"),
        (
            "loss.name=own_functions:averaged",
            "must return a number for each sample, (2, 5), from yhat (2, 1, 5); here ",
        ),
        ("loss.name=own_functions:by_classes", "fails on sign labels (RuntimeError"),
    ],
)
def test_what_is_wrong_is_refused_in_a_line(words: str, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert here("train", *TINY, *words.split(), "dir=a") == 2
    err = capfd.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
    assert not Path("a").exists()


def test_functions_are_differentiated_where_no_gradient_is_wanted() -> None:
    """The program trains without torch's own gradients, and so do these."""
    with torch.no_grad():
        h = torch.linspace(-2, 2, 9)
        out = torch.empty_like(h)
        ActivationOfFunction(F.mish, "mish").backward(torch.ones_like(h), h, h, out=out)
    at = h.clone().requires_grad_()
    F.mish(at).sum().backward()
    torch.testing.assert_close(out, at.grad)


# --- Classes of the user's own, tried when they are made.

CLASSES = {
    "activation.name=mine:NoBase": "is no subclass of mfrun.networks.activations.Activation",
    "activation.name=mine:Half": "lacks backward",
    "activation.name=broken:A": "cannot be imported (SyntaxError: ",
    "activation.name=nowhere:A": "cannot be imported (No module named 'nowhere'); nowhere.py lies in a folder",
    "schedule.name=mine:Scalar": "xi must be a number >= 0 for each step; here 1.0 for 4",
    "schedule.name=mine:Negative": "xi must be a number >= 0 for each step; here [-1.0, -1.0, -1.0, -1.0] for 4",
    "schedule.name=mine:Raises": "fails (ZeroDivisionError: ",
    "schedule.name=mine:AList": "xi must return a NumPy array; here a list",
    "schedule.name=mine:BelowZero": "xi must be a number >= 0 for each step; it is -0.25 at step 6",
    "activation.name=mine:WritesTooEarly": "its backward is not the derivative of its forward: off by",
    "activation.name=mine:ChangesH": "changes h, which others read after it",
    "neuron.name=mine:Early": "its derivative in argument 1 is not that of its value: off by",
    "loss.name=mine:Unsummed": "must return a number for each sample, (2, 5), from yhat (2, 1, 5); here (2, 1, 5)",
    "loss.name=mine:in_place": "changes yhat, which others read after it",
    "loss.name=mine:NoTasks": "lacks tasks",
    "loss.name=mine:by_axis_1": "gives other numbers on one network, yhat of (n_out, B): that of a sample is to depend",
    "loss.name=mine:ranked": "gives other numbers on some of the samples: ",
    "schedule.name=mine:Ramp": "xi must be a function of each step alone; of steps 1 to 4 it gives [1.0, 0.6",
    "evaluation.test_functions=[mine:f_bar]": "columns that end in _bar, _se, _sets, _paired are about others; rename",
    "evaluation.test_functions=[mine:zeroed]": "changes yhat, which others read after it",
    "evaluation.test_functions=[mine:of_numpy]": "must return (S, B) from yhat (S, n_out, B); here ndarray",
    "init.law=mine:Wide": "has mean 0 and variance 1; its samples have mean ",
    "init.law=mine:Flat": "its samples have another law than its quantiles: off by 0.0",
    "init.law=mine:Elsewhere": "its samples are others when drawn again; all chance comes from the generator",
    "neuron.name=mine:Wrong": "its derivative in argument 1 is not that of its value: off by",
    "operation.name=mine:WrongPull": "its derivative in argument 2 is not that of its value: off by",
    "logger.name=mine:NoBase": "is no subclass of mfrun.runs.loggers.Logger",
    "dataset.name=mine:NoBase": "lacks load",
    "dataset.name=mine:ZeroOne": "its population labels are no signs: -1 or +1",
    "dataset.name=mine:Short": "its population samples are of shape (200, 2), not (samples, d) with d = 3",
    "dataset.name=mine:NoDraw": "fails (KeyError: ",
    "dataset.name=mine:Unseeded": "its population samples are others when they are drawn again; all chance comes from",
}

OWN_CLASSES = """
from dataclasses import dataclass, field
import numpy as np
import torch
from mfrun.dynamics import Schedule
from mfrun.networks import Activation, Neuron, Pointwise
from mfrun.networks.laws import Normal, Uniform
from mfrun.problems import Loss, PopulationProblem, Task

@dataclass
class NoBase:
    pass

@dataclass
class Half(Activation):
    def forward(self, h, out):
        torch.tanh(h, out=out)

@dataclass
class Scalar(Schedule):
    def xi(self, k, t, end):
        return 1.0

@dataclass
class Negative(Schedule):
    def xi(self, k, t, end):
        return -np.ones_like(t)

@dataclass
class Raises(Schedule):
    def xi(self, k, t, end):
        return np.full_like(t, 1 // 0)

@dataclass
class AList(Schedule):
    def xi(self, k, t, end):
        return [1.0 for _ in k]

@dataclass
class BelowZero(Schedule):
    def xi(self, k, t, end):
        return 1 - (k - 1) / 4

@dataclass
class WritesTooEarly(Activation):
    def forward(self, h, out):
        torch.tanh(h, out=out)

    def backward(self, g, h, a, out):
        torch.mul(a, a, out=out)
        out.neg_().add_(1).mul_(g)

@dataclass
class ChangesH(Activation):
    def forward(self, h, out):
        torch.tanh(h.mul_(2), out=out)

    def backward(self, g, h, a, out):
        torch.mul(g, 2 * (1 - a * a), out=out)

@dataclass
class Unsummed(Loss):
    tasks = tuple(Task)

    def value(self, y, yhat):
        return (yhat - y).square()

    def gradient(self, y, yhat):
        return 2 * (yhat - y)

@dataclass
class NoTasks(Loss):
    def value(self, y, yhat):
        return (yhat - y).square().sum(-2)

    def gradient(self, y, yhat):
        return 2 * (yhat - y)

@dataclass
class Ramp(Schedule):
    def xi(self, k, t, end):
        return np.linspace(1.0, 0.0, len(k))

def by_axis_1(y, yhat):
    return (yhat - yhat.mean(1, keepdim=True) - y).square().sum(-2)

def ranked(y, yhat):
    return (yhat - y).square().sum(-2) * yhat.shape[-1]

def of_one_set_of_labels(y, yhat):
    return torch.nn.functional.softplus(-y[0] * yhat[..., 0, :])

def of_each_set_of_labels(y, yhat):
    return torch.nn.functional.softplus(-y[..., 0, :] * yhat[..., 0, :])

def f_bar(y, yhat):
    return yhat.sum(-2)

def in_place(y, yhat):
    yhat -= y
    return yhat.square().sum(-2)

def zeroed(y, yhat):
    return yhat.zero_().sum(-2)

def of_numpy(y, yhat):
    return yhat.sum(-2).numpy()

class Wide(Normal):
    def sample(self, shape, generator):
        return 3 * super().sample(shape, generator)

class Flat(Normal):
    def sample(self, shape, generator):
        return Uniform().sample(shape, generator)

class Elsewhere(Normal):
    def sample(self, shape, generator):
        return torch.from_numpy(np.random.default_rng().normal(size=shape))

@dataclass
class Gain(Neuron):
    means: list[float] = field(default_factory=lambda: [1.0])
    deviations: list[float] = field(default_factory=lambda: [0.1])
    q = 1

    def value(self, sigma, theta, h):
        return theta[0] * sigma(theta[0] * h)

@dataclass
class Wrong(Gain):
    def backward(self, sigma, g, theta, h, out):
        return tuple(2 * t for t in super().backward(sigma, g, theta, h, out))

@dataclass
class Early(Neuron):
    means: list[float] = field(default_factory=lambda: [1.0])
    deviations: list[float] = field(default_factory=lambda: [0.1])
    q = 1

    def forward(self, sigma, theta, h, out):
        sigma.forward(theta[0] * h, out=out)

    def backward(self, sigma, g, theta, h, out):
        s = torch.tanh(theta[0] * h)
        torch.mul(1 - s * s, theta[0], out=out)
        by_theta = (g * (1 - s * s) * h).sum(-1, keepdim=True)
        out.mul_(g)
        return (by_theta,)

@dataclass
class WrongPull(Pointwise):
    def value(self, w, a):
        return torch.sin(w) * a

    def pull(self, g, w, a):
        return g * torch.cos(w) * a, g * w * torch.ones_like(a)

@dataclass
class ZeroOne:
    d: int = 3

    def load(self, dtype, device):
        return PopulationProblem(self.draw, 3, dtype, device)

    def draw(self, generator, count):
        x = torch.randn((count, self.d), generator=generator)
        return x, (x[:, 0] > 0).double()

@dataclass
class Short(ZeroOne):
    d: int = 2

@dataclass
class Unseeded(ZeroOne):
    def draw(self, generator, count):
        x = torch.randn(count, self.d)
        return x, x[:, 0].sign()

@dataclass
class NoDraw(ZeroOne):
    def draw(self, generator, count):
        return {}["x"]
"""


@pytest.mark.parametrize("word", CLASSES)
def test_a_class_that_is_not_what_it_should_be(
    word: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("mine.py").write_text(OWN_CLASSES)
    Path("broken.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(".")
    sys.modules.pop("mine", None)
    words = ["~dataset.d", "~dataset.delta"] if word.startswith("dataset") else []
    assert here("train", "threads=1", "width=4", "depth=3", "steps=6", *words, word, "dir=r") == 2
    err = capfd.readouterr().err
    assert err.startswith(f"mfrun: {word.replace('[mine:', '').replace(']', '')}: {CLASSES[word]}")
    assert err.count("\n") == 1


def test_a_loss_on_labels_of_each_network_s_own(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where networks see data of their own labels are stacked, and y[0] is the labels of the first network."""
    Path("mine.py").write_text(OWN_CLASSES)
    monkeypatch.syspath_prepend(".")
    sys.modules.pop("mine", None)
    words = [*TINY, "replicates=2", "steps=20", "loss=logistic"]
    stacked = [*words, "replicate_data=independent"]
    assert here("train", *words, "loss.name=mine:of_one_set_of_labels", "dir=shared") == 0
    capfd.readouterr()
    assert here("train", *stacked, "loss.name=mine:of_one_set_of_labels", "dir=own") == 2
    said = "gives other numbers on labels of each network's own, y of (S, n_out, B) (replicate_data=independent)"
    assert capfd.readouterr().err.startswith(f"mfrun: loss.name=mine:of_one_set_of_labels: {said}: ")
    assert here("train", *stacked, "loss.name=mine:of_each_set_of_labels", "dir=own") == 0
    assert here("train", *stacked, "dir=ours") == 0
    for x, y in zip(curves("own"), curves("ours"), strict=True):
        assert {k: float(v) for k, v in x.items()} == pytest.approx({k: float(v) for k, v in y.items()}, rel=1e-4)


def test_a_neuron_of_the_configured_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    """theta sigma(theta h) by `value` alone: sigma is one of the program's, differentiated by torch."""
    Path("mine.py").write_text(OWN_CLASSES)
    monkeypatch.syspath_prepend(".")
    sys.modules.pop("mine", None)
    words = [
        "threads=1",
        "depth=3",
        "dataset.d=3",
        "batch=5",
        "evaluation.samples=50",
        "steps=20",
        "neuron.name=mine:Gain",
    ]
    for width in ("4", "inf"):
        particles = ["particles.first=32", "particles.last=16", "particles.nodes=3"] if width == "inf" else []
        assert here("train", *words, *particles, "activation=relu", f"width={width}", f"dir=w{width}") == 0


def test_a_key_of_one_s_own_file(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The line names the file where the file is to blame, and only there."""
    Path("mine.py").write_text(OWN_CLASSES)
    monkeypatch.syspath_prepend(".")
    sys.modules.pop("mine", None)
    Path("conf/neuron").mkdir(parents=True)
    Path("conf/neuron/own.yaml").write_text("name: mine:Gain\nmeans: [1.0, 2.0]\nslop: 1\n")
    words = ["train", "--config-dir", "conf", *TINY, "steps=2", "neuron=own", "dir=r"]
    file = Path("conf/neuron/own.yaml")
    assert here(*words) == 2
    assert capfd.readouterr().err.startswith(f"mfrun: {file}: neuron.slop=1: unknown key")
    assert here(*words, "~neuron.slop") == 2
    assert capfd.readouterr().err.startswith(f"mfrun: {file}: neuron.means=[1.0, 2.0]: theta has 1 component")
    assert here(*words, "~neuron.slop", "neuron.means=[]") == 2
    assert capfd.readouterr().err.startswith("mfrun: neuron.means=[]: theta has")


def test_an_own_file_does_not_hide_behind_the_program_s(capfd: pytest.CaptureFixture[str]) -> None:
    Path("conf/neuron").mkdir(parents=True)
    Path("conf/neuron/gain.yaml").write_text("name: mine:Gain\n")
    assert here("train", "--config-dir", "conf", *TINY, "neuron=gain", "dir=r") == 2
    assert (
        capfd.readouterr().err
        == "mfrun: conf/neuron/gain.yaml: there is an option of that name already; call it otherwise\n"
    )


def test_help_lists_one_s_own_options(capfd: pytest.CaptureFixture[str]) -> None:
    Path("conf/neuron").mkdir(parents=True)
    Path("conf/neuron/mine.yaml").write_text("# a neuron of mine\nname: mine:Gain\nmeans: [1.0]   # at the start\n")
    assert here("train", "--help", "--config-dir", "conf") == 0
    said = capfd.readouterr().out
    assert "    mine          a neuron of mine\n" in said
    assert "at the start" in said
