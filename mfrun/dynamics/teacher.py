"""Fresh samples labelled by a teacher: a network that this program draws, or a function of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mfrun.errors import ConfigError
from mfrun.networks.architecture import Blueprint
from mfrun.networks.fully_connected import DenseArchitecture
from mfrun.networks.init import IID
from mfrun.networks.network import Network
from mfrun.networks.scaling import Standard
from mfrun.problems.problem import OTHERS, PopulationProblem, Problem, same
from mfrun.problems.tasks import Task
from mfrun.registry import create, imported, reason, register
from mfrun.seeds import entropy, generator

# Samples that the teacher's outputs are brought to mean 0 and deviation 1 over.
NORMALISED_OVER = 20_000
# Samples in one of its forward passes.
CHUNK = 5000


@register("dataset", "teacher")
@dataclass
class Teacher:
    """x ~ N(0, I_d), or a law of the user's own; y = f(x) + noise, its sign, or the largest of several outputs.

    f is a dense network of He's deviations, brought to mean 0 and deviation 1 over its inputs, or the user's function
    as it is.

    Attributes:
        d: dimension of x.
        task: ``regression``, ``sign`` or ``classes``.
        outputs: of f: targets, or classes.
        noise: standard deviation of what is added to each output of f.
        width: neurons in a hidden layer of the teacher.
        depth: its layers, the output counted.
        activation: its nonlinearity, as the student's key of that name.
        seed: of its weights.
        function: ``package.module:name`` in its place: (count, d) -> (count, outputs), or (count,) for one output.
        inputs: ``package.module:name`` in the place of N(0, I_d): (generator, count, d) -> (count, d).
    """

    d: int = 32
    task: str = "regression"
    outputs: int = 1
    noise: float = 0.0
    width: int = 16
    depth: int = 2
    activation: dict[str, Any] = field(default_factory=lambda: {"name": "relu"})
    seed: int = 0
    function: str = ""
    inputs: str = ""

    def __post_init__(self) -> None:
        for key, least in (("d", 1), ("outputs", 1), ("width", 1), ("depth", 2), ("seed", 0)):
            if getattr(self, key) < least:
                raise ConfigError(key, getattr(self, key), f"must be at least {least}")
        if self.task not in ("regression", "sign", "classes"):
            raise ConfigError("task", self.task, "one of regression, sign, classes")
        if not 0 <= self.noise < float("inf"):
            raise ConfigError("noise", self.noise, "a standard deviation is a finite number >= 0")
        if self.task == "sign" and self.outputs != 1:
            raise ConfigError("outputs", self.outputs, "a sign is that of 1 output")
        if self.task == "classes" and self.outputs < 2:
            raise ConfigError("outputs", self.outputs, "the classes are 2 or more outputs (dataset.outputs)")
        self._function = imported(self.function, "function") if self.function else None
        self._inputs = imported(self.inputs, "inputs") if self.inputs else None

    def load(self, dtype: torch.dtype, device: torch.device) -> Problem:
        """Fresh samples at every step.

        Raises:
            ConfigError: a function of the user's own fails, gives another shape or what is not finite, is another when
                it is called again, or changes its x.
        """
        self._network: Network | None = None
        self._mean, self._deviation = (make(self.outputs, dtype=torch.float32) for make in (torch.zeros, torch.ones))
        self._refuse_unsound()
        if self._function is None:
            self._network = DenseArchitecture().draw(self._blueprint())
            values = self._values(self._x(generator("teacher inputs", self.seed), NORMALISED_OVER))
            self._mean, self._deviation = values.mean(0), values.std(0).clamp_min(1e-12)
        return PopulationProblem(self.draw, self.d, dtype, device, Task(self.task), self.outputs)

    def draw(self, generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
        """``count`` samples: x (count, d) and y, (count, outputs) or signs (count,), float32, or classes (count,)."""
        x = self._x(generator, count)
        y = (self._values(x) - self._mean) / self._deviation
        if self.noise > 0:
            y = y + self.noise * torch.randn(y.shape, generator=generator, dtype=torch.float32)
        if self.task == "classes":
            return x, y.argmax(1)
        return x, torch.where(y[:, 0] < 0, -1.0, 1.0) if self.task == "sign" else y

    def _x(self, generator: torch.Generator, count: int) -> Tensor:
        if self._inputs is None:
            return torch.randn((count, self.d), generator=generator, dtype=torch.float32)
        return self._inputs(generator, count, self.d).float()

    def _values(self, x: Tensor) -> Tensor:
        """f(x), (count, outputs), float32."""
        if self._network is None:
            assert self._function is not None
            return self._function(x).float().reshape(len(x), -1)
        parts = []
        for part in torch.split(x, CHUNK):
            ws = self._network.workspace(len(part), backward=False)
            parts.append(self._network.forward(part, ws).mT.clone())
        return torch.cat(parts)

    def _blueprint(self) -> Blueprint:
        # He's deviations keep the size of what passes through the layers.
        init = IID(mu2=0.0, tau2=2**0.5)
        return Blueprint(
            activation=create("activation", self.activation, "dataset.activation"),
            init=init,
            width=self.width,
            depth=self.depth,
            d=self.d,
            n_out=self.outputs,
            seed=entropy("teacher", self.seed),
            scaling=Standard(),
        )

    def _refuse_unsound(self) -> None:
        """Try the user's functions on a few samples, twice."""
        # Not as many as d or the outputs: what is transposed would have the right shape.
        count = next(n for n in (5, 6, 7) if n not in (self.d, self.outputs))
        key, name = "inputs", self.inputs
        try:
            x, again = (self._x(generator("teacher", 0), count) for _ in range(2))
            why = _unsound(x, again, [(count, self.d)], "samples", OTHERS)
            if why is None and self._function is not None:
                key, name = "function", self.function
                # A function that writes to its x is to be told from inputs that are others.
                given = x.clone(), x.clone()
                y, again = (self._function(one).float() for one in given)
                shapes = [(count,), (count, 1)] if self.outputs == 1 else [(count, self.outputs)]
                why = _unsound(
                    y, again, shapes, "outputs", "others when it is called again; all chance is dataset.noise"
                )
                if not all(same(x, one) for one in given):
                    why = "changes its x in place; a copy of it may be changed (x.clone())"
        except Exception as error:  # It is the user's own code.
            raise ConfigError(key, name, f"fails ({type(error).__name__}: {reason(error)})") from error
        if why:
            raise ConfigError(key, name, why)


def _unsound(found: Tensor, again: Tensor, shapes: Sequence[tuple[int, ...]], what: str, others: str) -> str | None:
    """What is wrong with what a function of the user's own has returned, called twice, in words."""
    if tuple(found.shape) not in shapes:
        expected = " or ".join(map(str, shapes))
        return f"must return {expected} for {shapes[0][0]} samples; here {tuple(found.shape)}"
    if not bool(found.isfinite().all()):
        return f"its {what} are not finite"
    return None if same(found, again) else f"its {what} are {others}"
