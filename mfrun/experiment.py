"""From a checked configuration to the objects that it names: problem, loss, schedule, network."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from mfrun.config import Config, check
from mfrun.dynamics.schedules import Schedule
from mfrun.errors import ConfigError, UserError
from mfrun.networks.activations import Activation
from mfrun.networks.build import DenseArchitecture, Init, build
from mfrun.networks.cnn import ConvArchitecture, build_conv
from mfrun.networks.network import Network
from mfrun.networks.neurons import Bias, Neuron
from mfrun.networks.operations import Operation, Product
from mfrun.networks.particles import Particles
from mfrun.networks.products import Products, arrange
from mfrun.networks.scaling import Scaling
from mfrun.problems.losses import Loss
from mfrun.problems.problem import Problem
from mfrun.problems.streams import Parallel, Stream
from mfrun.registry import conform, create, distrust, find, names_in, reason
from mfrun.run import RunDirectory
from mfrun.seeds import entropy

TestFunction = Callable[[Tensor, Tensor], Tensor]
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass
class Experiment:
    """What a run consists of, with the data loaded and checked against the loss.

    Attributes:
        cfg: the configuration.
        problem: the law P.
        loss: L.
        schedule: xi(t), its multipliers times the scaling's rates.
        test_functions: phi(y, yhat) by name.
        particles: the discretisation of n = infinity.
        scaling: powers of n of multipliers, deviations and rates.
        neuron: sigma_l(theta, h).
        operation: sigma*(w, a).
    """

    cfg: Config
    problem: Problem
    loss: Loss
    schedule: Schedule
    test_functions: dict[str, TestFunction]
    particles: Particles
    architecture: DenseArchitecture | ConvArchitecture
    activation: Activation
    init: Init
    scaling: Scaling
    neuron: Neuron
    operation: Operation
    dtype: torch.dtype
    device: torch.device

    @property
    def sets(self) -> int:
        """Independent particle sets behind each replicate: 1 for a finite network."""
        return self.particles.sets if math.isinf(self.cfg.width) else 1

    @property
    def replicates(self) -> int:
        """Initialisations to train. The limit has no random one: only its data can tell replicates apart."""
        alike = math.isinf(self.cfg.width) and self.cfg.replicate_data == "shared"
        return 1 if alike else self.cfg.replicates

    @property
    def flops(self) -> float:
        """Floating point operations of a step, to a few per cent: three passes, a product and a sum for each weight."""
        data = (
            self.problem.image if isinstance(self.architecture, ConvArchitecture) else self.problem.d,
            self.problem.n_out,
        )
        cfg = self.cfg
        one = self.architecture.multiplications(cfg.width, cfg.depth, data, self.particles)  # type: ignore[arg-type]
        return 6 * cfg.batch * self.replicates * one

    def network(self) -> Network:
        """The network at step 0."""
        network = self._drawn()
        network.products = self.products
        return network

    @functools.cached_property
    def products(self) -> Products:
        """How matrices are multiplied; torch is set up for it."""
        largest = self.particles.first if math.isinf(self.cfg.width) else int(self.cfg.width)
        found = arrange(self.cfg.precision, self.device, largest)
        if isinstance(self.architecture, ConvArchitecture):
            found = replace(found, library="cuDNN" if self.device.type == "cuda" else "oneDNN")
        return found

    def _drawn(self) -> Network:
        cfg = self.cfg
        if isinstance(self.architecture, ConvArchitecture):
            assert self.problem.image is not None
            return build_conv(
                self.architecture,
                self.activation,
                self.init,
                width=cfg.width,
                image=self.problem.image,
                n_out=self.problem.n_out,
                seed=cfg.seed.init,
                replicates=self.replicates,
                particles=self.particles,
                dtype=self.dtype,
                device=self.device,
            )
        return build(
            self.architecture,
            self.activation,
            self.init,
            width=cfg.width,
            depth=cfg.depth,
            d=self.problem.d,
            n_out=self.problem.n_out,
            seed=cfg.seed.init,
            replicates=self.replicates,
            particles=self.particles,
            scaling=self.scaling,
            neuron=self.neuron,
            operation=self.operation,
            dtype=self.dtype,
            device=self.device,
        )

    def stream(self) -> Stream:
        """The batches of SGD: one order for all replicates, or one for each (all of its particle sets share it)."""
        cfg = self.cfg

        def one(seed: int) -> Stream:
            return self.problem.stream(seed, cfg.batch, cfg.sampling)

        if cfg.replicate_data == "shared" or cfg.replicates == 1:
            return one(cfg.seed.data)
        # Replicate 0 sees what a single run sees; the others' orders are no other seed's.
        seeds = [cfg.seed.data, *(entropy("replicate", cfg.seed.data, r) for r in range(1, cfg.replicates))]
        return Parallel([one(s) for s in seeds], copies=self.sets)


def assemble(cfg: Config, problem: Problem | None = None) -> Experiment:
    """Build and check everything that a run needs.

    Args:
        cfg: the configuration.
        problem: the data, where they are loaded already.

    Raises:
        ConfigError: a component refuses its keys, or two do not fit together.
        UserError: the data cannot be read.
    """
    device = resolve_device(cfg.device)
    dtype = DTYPES[cfg.dtype]
    architecture = create("architecture", cfg.architecture, "architecture")
    activation = create("activation", cfg.activation, "activation")
    neuron: Neuron = create("neuron", cfg.neuron, "neuron")
    operation: Operation = create("operation", cfg.operation, "operation")
    loss: Loss = create("loss", cfg.loss, "loss")
    schedule: Schedule = create("schedule", cfg.schedule, "schedule")
    if schedule.multipliers and len(schedule.multipliers) != cfg.depth:
        raise ConfigError("schedule.multipliers", schedule.multipliers, f"depth={cfg.depth} needs {cfg.depth} factors")
    particles = conform(Particles, cfg.particles, "particles")
    law = find("law", cfg.init.law, "init.law")()
    init = Init(law, cfg.init.tau1, cfg.init.mu2, cfg.init.tau2, cfg.init.mu3, cfg.init.tau3)
    architecture.check(cfg.depth)
    scaling: Scaling = create("scaling", cfg.scaling, "scaling")
    schedule = _scaled(schedule, scaling, architecture, cfg)
    for key, default in (("neuron", isinstance(neuron, Bias)), ("operation", isinstance(operation, Product))):
        name = getattr(cfg, key)["name"]
        if not default and isinstance(architecture, ConvArchitecture):
            raise ConfigError(key, name, f"is for dense layers; cnn takes {'bias' if key == 'neuron' else 'product'}")
        if not default and not scaling.is_mean_field:
            raise ConfigError(key, name, f"needs scaling=mean_field, not {cfg.scaling['name']}")
    if cfg.precision == "tf32" and device.type != "cuda":
        raise ConfigError("precision", "tf32", "is what GPUs offer; on a CPU float32 or bf16")
    if cfg.precision == "bf16" and isinstance(architecture, ConvArchitecture):
        raise ConfigError("precision", "bf16", "is for dense networks; convolutions take float32 or tf32")
    test_functions: dict[str, TestFunction] = {}
    for name in cfg.evaluation.test_functions:
        column = name.rpartition(":")[2]
        if column in ("loss", "error") or column in test_functions:
            raise ConfigError("evaluation.test_functions", name, f"the column {column} is taken; rename the function")
        test_functions[column] = find("test_function", name, "evaluation.test_functions")
    problem = problem or load_problem(cfg)
    if isinstance(architecture, ConvArchitecture):
        architecture.sizes(problem.image)
    if problem.task not in loss.tasks:
        fitting = ", ".join(t.value for t in loss.tasks)
        raise ConfigError(
            "loss",
            cfg.loss["name"],
            f"does not fit {cfg.dataset['name']}'s {problem.task.value} labels; it takes {fitting}",
        )
    _try(test_functions, problem)
    return Experiment(
        cfg=cfg,
        problem=problem,
        loss=loss,
        schedule=schedule,
        test_functions=test_functions,
        particles=particles,
        architecture=architecture,
        activation=activation,
        init=init,
        scaling=scaling,
        neuron=neuron,
        operation=operation,
        dtype=dtype,
        device=device,
    )


def _scaled(
    schedule: Schedule, scaling: Scaling, architecture: DenseArchitecture | ConvArchitecture, cfg: Config
) -> Schedule:
    """The schedule with the scaling's rates in its multipliers.

    Raises:
        ConfigError: the widths do not fit, or the scaling does not fit the width or the initial law.
    """
    name = cfg.scaling["name"]
    if math.isinf(cfg.width):
        if not scaling.is_mean_field:
            raise ConfigError("width", "inf", f"is the mean field limit; with scaling={name} a width is a whole number")
        return schedule
    widths = architecture.widths(int(cfg.width), cfg.depth)
    if scaling.is_mean_field:
        return schedule
    if not isinstance(architecture, DenseArchitecture):
        raise ConfigError("scaling", name, f"is for dense layers; {cfg.architecture['name']} ones take mean_field")
    if scaling.zero_mean and cfg.init.mu2 != 0:
        raise ConfigError("init.mu2", cfg.init.mu2, f"must be 0 with scaling={name}, where sums of n such weights grow")
    multipliers = schedule.multipliers or [1.0] * cfg.depth
    rates = scaling.factors(widths).rates
    return replace(schedule, multipliers=[m * r for m, r in zip(multipliers, rates, strict=True)])


def _try(test_functions: dict[str, TestFunction], problem: Problem) -> None:
    """Raises ConfigError where a test function does not fit the labels or does not return a number a sample."""
    for samples in problem.evaluation(0, 100).values() if test_functions else ():
        for x, y in samples:
            for name, phi in test_functions.items():
                try:
                    shape = tuple(phi(y, x.new_zeros((1, problem.n_out, len(x)))).shape)
                except ConfigError:
                    raise
                except Exception as error:  # the user's own code
                    why = f"fails ({type(error).__name__}: {reason(error)})"
                    raise ConfigError("evaluation.test_functions", name, why) from error
                if shape not in ((1, len(x)), (len(x),)):
                    why = f"must return (S, B) from yhat (S, n_out, B); here {shape} from {(1, problem.n_out, len(x))}"
                    raise ConfigError("evaluation.test_functions", name, why)


def load_problem(cfg: Config) -> Problem:
    """The data alone.

    Raises:
        ConfigError: bad keys.
        UserError: the data cannot be read.
    """
    try:
        return create("dataset", cfg.dataset, "dataset").load(DTYPES[cfg.dtype], resolve_device(cfg.device))
    except ConfigError as error:
        if error.key.startswith(("dataset.", "device")):
            raise
        raise ConfigError(f"dataset.{error.key}", error.value, error.allowed) from None


def restore(run: RunDirectory, step: int | None = None) -> tuple[Experiment, Network, int]:
    """A run's experiment, its network as last saved (or as saved at a step), and the step of that.

    Raises:
        UserError: no run there, or no such state.
    """
    node = OmegaConf.merge(OmegaConf.structured(Config), run.config())
    assert isinstance(node, DictConfig)
    distrust(names_in(OmegaConf.to_container(node)))
    experiment = assemble(check(node))
    network = experiment.network()
    return experiment, network, load_into(network, run, step)


def load_into(network: Network, run: RunDirectory, step: int | None = None) -> int:
    """Give a network the arrays of a saved state, the newest or that of a step; returns the state's step.

    Raises:
        UserError: no such state.
    """
    found = run.load_state(step=step)
    if found is None:
        saved = run.saved_steps()
        if step is None or not saved:
            raise UserError(f"{run.path}: no state has been saved here yet")
        there = ", ".join(map(str, saved))
        raise UserError(f"{run.path}: no state of step {step}; there are {there} (keep_checkpoints= keeps more)")
    tensors, facts = found
    network.load(tensors)
    return int(facts["step"])


def resolve_device(name: str) -> torch.device:
    """``auto`` is a GPU where there is one.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError("device", name, f"not available ({str(error).splitlines()[0][:80]})") from error
    return device
