"""The architecture ``cnn``, and the drawing of its weights: of width n, or of n = infinity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mfrun.errors import ConfigError
from mfrun.networks.activations import Activation
from mfrun.networks.conv import Conv, Convolution, Image
from mfrun.networks.measures import Measure
from mfrun.networks.particles import Particles
from mfrun.registry import conform, register
from mfrun.seeds import generator

if TYPE_CHECKING:
    from mfrun.networks.build import Init

NORMALISE = ("terms", "filters")


@register("architecture", "cnn")
@dataclass
class ConvArchitecture:
    """Convolutions, and a fully-connected output (Appendix C).

    Attributes:
        layers: the convolutions, first to last, as :class:`Convolution` or as mappings of its fields.
        normalise: what the sums of layers 2 and above are divided by. ``terms``: their number of terms, n_{l-1} k_l^2
            and at the output n_L times the remaining pixels. ``filters``: n_{l-1} alone, as the formula of Appendix C
            reads.
        biases: False for a network without.
    """

    layers: list[Any] = field(default_factory=list)
    normalise: str = "terms"
    biases: bool = True

    def __post_init__(self) -> None:
        if not self.layers:
            raise ConfigError("layers", self.layers, "lists the convolutions, at least one")
        for i, layer in enumerate(self.layers):
            if not isinstance(layer, Convolution | Mapping):
                raise ConfigError(f"layers[{i}]", layer, "a convolution is a mapping of keys, {kernel: 3, stride: 1}")
        self.layers = [
            layer if isinstance(layer, Convolution) else conform(Convolution, layer, f"layers[{i}]")
            for i, layer in enumerate(self.layers)
        ]
        if self.normalise not in NORMALISE:
            raise ConfigError("normalise", self.normalise, f"one of {', '.join(NORMALISE)}")

    def check(self, depth: int) -> None:
        """Raises ConfigError where the depth is not the number of layers listed, the output included."""
        L = len(self.layers)
        if depth != L + 1:
            raise ConfigError(
                "depth", depth, f"architecture.layers lists {L} convolutions; with the output that is depth={L + 1}"
            )

    def widths(self, n: int, depth: int) -> list[int]:
        """n_1 .. n_L of a finite network.

        Raises:
            ConfigError: the depth does not fit, or a ratio leaves a layer without filters.
        """
        self.check(depth)
        widths = [round(n * layer.ratio) for layer in self.layers]
        if min(widths) < 1:
            i = widths.index(min(widths))
            raise ConfigError(
                f"architecture.layers[{i}].ratio", self.layers[i].ratio, f"leaves no filters at width={n}"
            )
        return widths

    def sizes(self, image: Image | None) -> list[tuple[int, int]]:
        """Height and width of the images that enter layers 1 .. L + 1.

        Raises:
            ConfigError: the data are no images, or a layer leaves nothing of them.
        """
        if image is None:
            raise ConfigError("architecture.name", "cnn", "needs images, and the data set has none")
        sizes = [image[:2]]
        for i, layer in enumerate(self.layers):
            height, width = sizes[-1]
            sizes.append((layer.size(height), layer.size(width)))
            if min(sizes[-1]) < 1:
                given = {"kernel": layer.kernel, "stride": layer.stride, "padding": layer.pad, "pool": layer.pool}
                raise ConfigError(f"architecture.layers[{i}]", given, f"leaves nothing of {height} x {width} pixels")
        return sizes

    def multiplications(self, width: float, depth: int, data: tuple[Image, int], particles: Particles) -> float:
        """Products of a weight and a pixel for one sample; ``data`` is (image, n_out)."""
        image, n_out = data
        limit = math.isinf(width)
        widths = [1] * len(self.layers) if limit else self.widths(int(width), depth)
        widths[0] = particles.first if limit else widths[0]
        below, total = image[2], 0.0
        for layer, n, size in zip(self.layers, widths, self.sizes(image), strict=False):
            pixels = math.prod((side + 2 * layer.pad - layer.kernel) // layer.stride + 1 for side in size)
            total, below = total + n * below * layer.kernel**2 * pixels, n
        return total + n_out * below * math.prod(self.sizes(image)[-1])

    def kernels(self, image: Image) -> list[tuple[int, int]]:
        """The receptive fields of layers 1 .. L + 1; the output's is all that is left of the image."""
        return [*((layer.kernel, layer.kernel) for layer in self.layers), self.sizes(image)[-1]]

    def terms(self, image: Image) -> list[int]:
        """c_1 .. c_{L+1}, what the sums are divided by besides the number of filters."""
        inner = [h * w if self.normalise == "terms" else 1 for h, w in self.kernels(image)[1:]]
        return [1, *inner]


def build_conv(
    architecture: ConvArchitecture,
    activation: Activation,
    init: Init,
    *,
    width: float,
    image: Image,
    n_out: int,
    seed: int = 0,
    replicates: int = 1,
    particles: Particles | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Conv:
    """Draw a network at step 0; arguments and errors are those of :func:`mfrun.networks.build.build`.

    Args:
        image: height, width and channels of the inputs.
    """
    if math.isinf(width):
        particles = particles or Particles()
        W, b, p = _limit(architecture, init, image, n_out, seed, replicates * particles.sets, particles)
    else:
        W, b, p = _finite(architecture, init, int(width), image, n_out, seed, replicates)

    def ready(array: Tensor) -> Tensor:
        return array.to(dtype=dtype, device=device).contiguous()

    return Conv(
        [ready(w) for w in W],
        [ready(v) for v in b] if architecture.biases else None,
        [Measure(m.scale, None if m.weights is None else ready(m.weights)) for m in p],
        activation,
        architecture.layers,
        architecture.terms(image),
        image,
    )


def _finite(
    architecture: ConvArchitecture, init: Init, n: int, image: Image, n_out: int, seed: int, replicates: int
) -> tuple[list[Tensor], list[Tensor], list[Measure]]:
    """I.i.d. weights and the uniform measure: W_1 ~ (0, tau1^2 / (k_1^2 channels)), the others ~ (mu2, tau2^2)."""
    depth = len(architecture.layers) + 1
    widths, kernels = architecture.widths(n, depth), architecture.kernels(image)
    shapes = [(k, j, *kernel) for k, j, kernel in zip([*widths, n_out], [image[2], *widths], kernels, strict=True)]

    def draw(r: int) -> tuple[list[Tensor], list[Tensor]]:
        # The width is in the key: widths of one seed are independent, as an average over seeds assumes.
        generators = [generator("initial weights", seed, n, r, layer) for layer in range(depth)]
        W = [
            init.law.sample(s, g).mul_(init.tau2).add_(init.mu2)
            for s, g in zip(shapes[1:], generators[1:], strict=True)
        ]
        W.insert(0, init.law.sample(shapes[0], generators[0]).mul_(init.tau1 / math.sqrt(math.prod(shapes[0][1:]))))
        b = [init.law.sample((k,), g).mul_(init.tau3).add_(init.mu3) for k, g in zip(widths, generators, strict=False)]
        # One theta_3 for each filter of the last layer enters by its average, as in Eq. (38).
        theta3 = init.law.sample((n_out, widths[-1]), generators[-1])
        b.append(theta3.mean(1).mul_(init.tau3).add_(init.mu3))
        return W, b

    draws = [draw(r) for r in range(replicates)]
    W = [torch.stack([w[l] for w, _ in draws]) for l in range(depth)]
    b = [torch.stack([v[l] for _, v in draws]) for l in range(depth)]
    return W, b, [Measure.uniform(k) for k in widths]


def _limit(
    architecture: ConvArchitecture, init: Init, image: Image, n_out: int, seed: int, stack: int, particles: Particles
) -> tuple[list[Tensor], list[Tensor], list[Measure]]:
    """One filter for each type, and the conditional mean mu2 of every inner weight.

    A filter's kernels are vectors of weights where a neuron has single weights, and nothing else changes: f_l (Eq. 27)
    is the constant kernel of entries mu2 at the start, and convolution, activation and pooling act on every filter
    alike, so that filters that start with one (theta, f) stay equal for ever. The output weights of a filter of layer L
    are one number for each remaining pixel and output.
    """
    kernels, L = architecture.kernels(image), len(architecture.layers)
    w, beta = math.prod(kernels[0]) * image[2], n_out * math.prod(kernels[-1])
    # What tells the filters of each layer apart at t = 0, as coordinates of mean 0 and variance 1: (w, bias, beta).
    bias = 1 if architecture.biases and init.tau3 > 0 else 0
    counts = [
        [w if l == 0 and init.tau1 > 0 else 0, bias, beta if l == L - 1 and init.tau2 > 0 else 0] for l in range(L)
    ]
    types = [particles.types(init.law, sum(m), stack, (seed, l), first=l == 0) for l, m in enumerate(counts)]

    def coordinates(l: int, part: int, wanted: int) -> Tensor:
        """(stack, K_l, wanted); zeros for coordinates with no spread."""
        found = torch.split(types[l].nodes, counts[l], -1)[part]
        return found if found.shape[-1] else found.new_zeros((*found.shape[:-1], wanted))

    W = [torch.unflatten(coordinates(0, 0, w), -1, (image[2], *kernels[0])) * (init.tau1 / math.sqrt(w))]
    for l in range(1, L):
        shape = (stack, types[l].count, types[l - 1].count, *kernels[l])
        W.append(torch.full(shape, init.mu2, dtype=torch.float64))
    slices = torch.unflatten(coordinates(L - 1, 2, beta), -1, (n_out, *kernels[-1])).movedim(1, 2)
    W.append(slices * init.tau2 + init.mu2)
    b = [coordinates(l, 1, 1)[..., 0] * init.tau3 + init.mu3 for l in range(L)]
    b.append(torch.full((stack, n_out), init.mu3, dtype=torch.float64))
    return W, b, [t.measure() for t in types]
