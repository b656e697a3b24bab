"""From a checked configuration to the objects that it names: problem, loss, schedule, network."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from mfrun.config import Config, validated
from mfrun.dynamics.evaluate import Evaluator, over_sets
from mfrun.dynamics.schedules import Rates, Schedule, refuse_negative_rates
from mfrun.dynamics.steps import Eager, Graphed, Lasting, Steps
from mfrun.errors import ConfigError, UserError
from mfrun.networks.architecture import Architecture, Blueprint, Perturbations, StandIn
from mfrun.networks.network import Network
from mfrun.networks.particles import Particles
from mfrun.networks.products import Products
from mfrun.networks.scaling import Scaling
from mfrun.problems.losses import Loss, refuse_unless_it_fits
from mfrun.problems.problem import Problem, refuse_unless_sound
from mfrun.problems.streams import Parallel, Stream
from mfrun.registry import conform, create, distrust, find, names, names_in, reason
from mfrun.runs.columns import ASIDE
from mfrun.runs.directory import RunDirectory
from mfrun.runs.progress import say
from mfrun.seeds import alike, entropy

TestFunction = Callable[[Tensor, Tensor], Tensor]
DTYPES = {"float32": torch.float32, "float64": torch.float64}

# Of columns that say how far off another is, or what a pair of networks has in common.
ENDINGS = (*ASIDE, "_paired")
# Multiplications of a step up to which a tape makes it faster.
SMALL_STEP = 100e6


@dataclass
class Experiment:
    """What a run consists of, with the data loaded and everything checked against everything else.

    Attributes:
        cfg: the configuration.
        problem: the law P.
        loss: L.
        schedule: xi(t), its multipliers times the scaling's rates.
        test_functions: phi(y, yhat) by name.
        architecture: what the network is built like.
        blueprint: what it is drawn from.
    """

    cfg: Config
    problem: Problem
    loss: Loss
    schedule: Schedule
    test_functions: dict[str, TestFunction]
    architecture: Architecture
    blueprint: Blueprint

    @property
    def device(self) -> torch.device:
        """Where the run trains."""
        return self.blueprint.device

    @property
    def sets(self) -> int:
        """Independent particle sets behind each replicate: 1 for a finite network."""
        return self.blueprint.sets

    @property
    def replicates(self) -> int:
        """Initialisations that are trained."""
        return self.blueprint.replicates

    @functools.cached_property
    def multiplications(self) -> float:
        """Products of a weight and a number that one sample costs on its way through all networks."""
        return self.replicates * self.architecture.multiplications(self.blueprint)

    @property
    def flops(self) -> float:
        """Floating point operations of a step, to a few per cent: three passes, a product and a sum for each weight."""
        return 6 * self.cfg.batch * self.multiplications

    @property
    def scaling(self) -> Scaling:
        """Powers of n of multipliers, deviations and rates."""
        return self.blueprint.scaling

    def network(self) -> Network:
        """The network at step 0."""
        network = self.architecture.draw(self.blueprint)
        products = self.products
        for part in (network, *network.parts):
            part.products = products
        return network

    @property
    def products(self) -> Products:
        """How matrices are multiplied; torch is set up for it."""
        return self.architecture.products(self.blueprint, self.cfg.precision)

    @property
    def rates(self) -> Rates:
        """The learning rates of all steps."""
        return Rates(self.schedule, self.cfg.alpha, self.cfg.steps, self.cfg.depth)

    def steps(self, network: Network, stream: Stream) -> Steps:
        """The steps of SGD, as they are fastest on the run's device."""
        return self.kind_of_steps(network, stream, self.loss, self.rates, self.cfg.batch)

    @property
    def kind_of_steps(self) -> type[Steps]:
        """How they are made: recorded once, where that is known to do what each step does."""
        if self.device.type == "cuda":
            return Graphed if self._ours() else Eager
        return Lasting if self._small() else Eager

    def _small(self) -> bool:
        """Whether Python is a considerable part of a step, and a step is known to depend on its arrays alone."""
        blueprint, cfg = self.blueprint, self.cfg
        exact = blueprint.dtype == torch.float32 and cfg.precision == "float32"
        multiplications = 3 * cfg.batch * self.multiplications / self.replicates
        return self._ours() and exact and self.architecture.taped and multiplications <= SMALL_STEP

    def _ours(self) -> bool:
        """Whether all parts of a step are the program's own: others may look at values, and decide by them, which what
        is recorded once would not do again."""
        cfg = self.cfg
        parts = (cfg.architecture, cfg.activation, cfg.neuron, cfg.operation, cfg.loss, cfg.dataset)
        return not any(map(names_in, parts))

    def evaluator(self, samples: int | None = None) -> Evaluator:
        """The metrics of the run, over the samples that it is evaluated at, or over so many in each split."""
        sets = self.problem.evaluation(self.cfg.seed.eval, samples or self.cfg.evaluation.samples)
        partners = self.blueprint.predict.partners if self.blueprint.perturbed else None
        return Evaluator(sets, self.problem.task, self.loss, self.test_functions, partners=partners)

    def over_sets(self, columns: dict[str, list[float]]) -> dict[str, list[float]]:
        """The metrics of each replicate from those of all networks."""
        return over_sets(columns, self.sets, self.blueprint.union)

    def stream(self) -> Stream:
        """The batches of SGD: one order for all replicates, or one for each (all of its networks share it)."""
        cfg = self.cfg

        def one(seed: int) -> Stream:
            return self.problem.stream(seed, cfg.batch, cfg.sampling)

        if cfg.replicate_data == "shared" or cfg.replicates == 1:
            return one(cfg.seed.data)
        # Replicate 0 sees what a single run sees; the others' orders are no other seed's.
        seeds = [cfg.seed.data, *(entropy("replicate", cfg.seed.data, r) for r in range(1, cfg.replicates))]
        return Parallel([one(s) for s in seeds], self.blueprint.replicate_of)


def assemble(cfg: Config, problem: Problem | None = None) -> Experiment:
    """Build and check everything that a run needs.

    Args:
        cfg: the configuration.
        problem: the data, where they are loaded already.

    Raises:
        ConfigError: a component refuses its keys, or two do not fit together.
        UserError: the data cannot be read.
    """
    architecture: Architecture = create("architecture", cfg.architecture, "architecture")
    blueprint = _blueprint(cfg)
    schedule: Schedule = create("schedule", cfg.schedule, "schedule")
    if schedule.multipliers and len(schedule.multipliers) != cfg.depth:
        raise ConfigError("schedule.multipliers", schedule.multipliers, f"depth={cfg.depth} needs {cfg.depth} factors")
    if cfg.budget < 1 and schedule.needs_end:
        why = f"is a part of a run, and schedule={cfg.schedule['name']} stretches over the whole of any"
        raise ConfigError("budget", cfg.budget, f"{why}; schedule.time gives cosine a length of its own")
    loss: Loss = create("loss", cfg.loss, "loss")
    test_functions = _test_functions(cfg)
    problem = problem or load_problem(cfg)
    if not architecture.unions:
        blueprint = replace(blueprint, particles=replace(blueprint.particles, union=False))
    blueprint = replace(blueprint, d=problem.d, n_out=problem.n_out, image=problem.image)
    named = ("architecture", "neuron", "operation", "scaling")
    architecture.accept(blueprint, {k: getattr(cfg, k)["name"] for k in named} | {"precision": cfg.precision})
    _look(blueprint, architecture, problem)
    if cfg.evaluation.kernels and not architecture.layer_kernels:
        why = f"is for dense layers, not architecture={cfg.architecture['name']}"
        raise ConfigError("evaluation.kernels", cfg.evaluation.kernels, why)
    factors = architecture.rates(cfg.depth)
    if any(factor != 1 for factor in factors):
        multipliers = [m * f for m, f in zip(schedule.factors(cfg.depth), factors, strict=True)]
        schedule = replace(schedule, multipliers=multipliers)
    if not blueprint.infinite and not blueprint.scaling.is_mean_field:
        schedule = _scaled(schedule, blueprint, architecture)
    if problem.task not in loss.tasks:
        fitting = [name for name in names("loss") if problem.task in find("loss", name, "loss").tasks]
        said = " (dataset.task)" if "task" in cfg.dataset else ""
        takes = ", ".join(t.value for t in loss.tasks)
        why = f"does not fit {cfg.dataset['name']}'s {problem.task.value} labels{said}; it takes {takes}"
        why += f"; {', '.join(fitting)} {'fits' if len(fitting) == 1 else 'fit'} them"
        raise ConfigError("loss", cfg.loss["name"], why)
    if ":" in cfg.loss["name"]:
        stacked = cfg.replicates > 1 and cfg.replicate_data == "independent"
        refuse_unless_it_fits(loss, cfg.loss["name"], problem.task, problem.n_out, stacked)
    if ":" in cfg.schedule["name"]:
        refuse_negative_rates(Rates(schedule, cfg.alpha, cfg.steps, cfg.depth), cfg.schedule["name"])
    _try(test_functions, problem)
    return Experiment(cfg, problem, loss, schedule, test_functions, architecture, blueprint)


def _look(blueprint: Blueprint, architecture: Architecture, problem: Problem) -> None:
    """Show the initial law the training inputs, as neurons of layer 1 see them."""

    def seen(x: Tensor) -> Tensor:
        return architecture.receptive(x, blueprint)

    def principal(m: int) -> Tensor:
        return problem.principal(m, seen, repr(architecture))

    blueprint.init.look(seen(torch.zeros((1, problem.d))).shape[1], principal)


def _blueprint(cfg: Config) -> Blueprint:
    """What the network is drawn from, as far as the configuration says it; the data say the rest.

    Raises:
        ConfigError: a component refuses its keys, or two do not fit together.
    """
    # The limit has no random initialisation: only its data can tell replicates apart.
    alike = math.isinf(cfg.width) and cfg.replicate_data == "shared"
    predict = conform(Perturbations, cfg.predict, "predict")
    replicates = len(predict.members) if cfg.perturbed else 1 if alike else cfg.replicates
    blueprint = Blueprint(
        activation=create("activation", cfg.activation, "activation"),
        init=create("init", cfg.init, "init"),
        width=cfg.width,
        depth=cfg.depth,
        d=0,
        n_out=0,
        seed=cfg.seed.init,
        replicates=replicates,
        particles=conform(Particles, cfg.particles, "particles"),
        neurons=cfg.neurons,
        stand_in=conform(StandIn, cfg.stand_in, "stand_in"),
        perturbed=cfg.perturbed,
        predict=predict,
        scaling=create("scaling", cfg.scaling, "scaling"),
        neuron=create("neuron", cfg.neuron, "neuron"),
        operation=create("operation", cfg.operation, "operation"),
        dtype=DTYPES[cfg.dtype],
        device=resolve_device(cfg.device),
    )
    scaling = cfg.scaling["name"]
    if cfg.precision == "tf32" and blueprint.device.type != "cuda":
        raise ConfigError("precision", "tf32", "is what GPUs offer; on a CPU float32 or bf16")
    if blueprint.scaling.is_mean_field:
        return blueprint
    if blueprint.infinite:
        why = f"is the mean field limit; with scaling={scaling} a width is a whole number"
        raise ConfigError("width", "inf", why)
    for key, default in (("neuron", "bias"), ("operation", "product")):
        name = getattr(cfg, key)["name"]
        if name != default:
            raise ConfigError(key, name, f"needs scaling=mean_field, not {scaling}")
    if blueprint.scaling.zero_mean and not blueprint.init.zero_mean:
        if cfg.init.get("mu2") == 0:
            raise ConfigError(
                "init", cfg.init["name"], f"its weights have means; with scaling={scaling} they have none"
            )
        why = f"must be 0 with scaling={scaling}, where sums of n such weights grow"
        raise ConfigError("init.mu2", cfg.init.get("mu2"), why)
    return blueprint


def _scaled(schedule: Schedule, blueprint: Blueprint, architecture: Architecture) -> Schedule:
    """The schedule with the scaling's rates in its multipliers."""
    rates = blueprint.scaling.factors(architecture.widths(blueprint.size, blueprint.depth)).rates
    multipliers = schedule.factors(blueprint.depth)
    return replace(schedule, multipliers=[m * r for m, r in zip(multipliers, rates, strict=True)])


def _test_functions(cfg: Config) -> dict[str, TestFunction]:
    """phi by the name of its column.

    Raises:
        ConfigError: there is no such function, or the column is taken.
    """
    found: dict[str, TestFunction] = {}
    for name in cfg.evaluation.test_functions:
        column = name.rpartition(":")[2]
        if column.endswith(ENDINGS):
            why = f"columns that end in {', '.join(ENDINGS)} are about others; rename the function"
            raise ConfigError("evaluation.test_functions", column, why)
        if column in ("loss", "error") or column in found:
            raise ConfigError("evaluation.test_functions", name, f"the column {column} is taken; rename the function")
        found[column] = find("test_function", name, "evaluation.test_functions")
    return found


def _try(test_functions: dict[str, TestFunction], problem: Problem) -> None:
    """Raises ConfigError where a test function does not fit the labels or does not return a number a sample."""
    for samples in problem.evaluation(0, 100).values() if test_functions else ():
        for x, y in samples:
            for name, phi in test_functions.items():
                given = torch.linspace(-1, 1, problem.n_out * len(x)).to(x).reshape(1, problem.n_out, len(x))
                try:
                    found = phi(y, yhat := given.clone())
                except ConfigError:
                    raise
                except Exception as error:  # It is the user's own code.
                    why = f"fails ({type(error).__name__}: {reason(error)})"
                    raise ConfigError("evaluation.test_functions", name, why) from error
                shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
                if not torch.equal(yhat, given):
                    why = "changes yhat, which others read after it"
                    raise ConfigError("evaluation.test_functions", name, why)
                if shape not in ((1, len(x)), (len(x),)):
                    why = f"must return (S, B) from yhat (S, n_out, B); here {shape} from {(1, problem.n_out, len(x))}"
                    raise ConfigError("evaluation.test_functions", name, why)


def load_problem(cfg: Config) -> Problem:
    """The data alone.

    Raises:
        ConfigError: bad keys.
        UserError: the data cannot be read.
    """
    name = cfg.dataset.get("name")
    try:
        dataset = create("dataset", cfg.dataset, "dataset")
        if not hasattr(dataset, "load"):
            raise ConfigError("dataset.name", name, "lacks load")
        # The runs of a sweep load the data each in its own process, and again where they go on.
        with alike():
            problem: Problem = dataset.load(DTYPES[cfg.dtype], resolve_device(cfg.device))
        if ":" in str(name):
            refuse_unless_sound(problem, str(name))
        return problem
    except ConfigError as error:
        if error.key.startswith(("dataset.", "device")):
            raise
        raise ConfigError(f"dataset.{error.key}", error.value, error.allowed) from None


class Problems:
    """Data sets that are loaded once for all runs of a command that share them."""

    def __init__(self) -> None:
        self._loaded: dict[str, Problem] = {}

    def __call__(self, cfg: Config) -> Problem:
        """That of a run."""
        key = json.dumps([cfg.dataset, cfg.dtype, cfg.device], sort_keys=True, default=str)
        if key not in self._loaded:
            self._loaded[key] = load_problem(cfg)
        return self._loaded[key]


def restore(
    run: RunDirectory, step: int | None = None, problems: Problems | None = None
) -> tuple[Experiment, Network, int]:
    """A run's experiment, its network as last saved (or as saved at a step), and the step of that.

    Args:
        run: its folder.
        step: of the state; None for the newest.
        problems: the data that are loaded already.

    Raises:
        UserError: no run there, or no such state.
    """
    node = OmegaConf.merge(OmegaConf.structured(Config), run.config())
    assert isinstance(node, DictConfig)
    distrust(names_in(OmegaConf.to_container(node)))
    cfg = validated(node)
    experiment = assemble(cfg, None if problems is None else problems(cfg))
    network = experiment.network()
    return experiment, network, load_into(network, run, step)


def load_into(network: Network, run: RunDirectory, step: int | None = None) -> int:
    """Give a network the arrays of a saved state, the newest or that of a step; returns the state's step.

    Raises:
        UserError: no such state.
    """
    found = run.load_state(say, step)
    if found is None:
        saved = run.saved_steps()
        if not saved:
            raise UserError(f"{run.path}: no state has been saved here yet")
        if step is None or step in saved:
            raise UserError(f"{run.path}: {'no saved state' if step is None else f'the state of step {step}'} is whole")
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
        torch.empty(0, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        # Of other names, torch lists all that it was ever built for.
        known = re.fullmatch(r"cpu|cuda(:\d+)?", name)
        why = f" ({str(error).splitlines()[0][:80]})" if known else "; one of auto, cpu, cuda, cuda:N"
        raise ConfigError("device", name, f"not available{why}") from error
    return device
