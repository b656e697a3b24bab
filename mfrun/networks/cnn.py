"""The architecture ``cnn``: convolutions and a fully-connected output, drawn for :mod:`mfrun.networks.conv`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from mfrun.errors import ConfigError
from mfrun.networks.architecture import Blueprint
from mfrun.networks.conv import Conv, Convolution, as_images
from mfrun.networks.drawing import AnyWidth
from mfrun.networks.drawn import Drawn
from mfrun.networks.init import Layers
from mfrun.networks.network import Image
from mfrun.networks.products import Products
from mfrun.registry import conform, register

NORMALISE = ("terms", "filters")


@register("architecture", "cnn")
@dataclass
class ConvArchitecture(AnyWidth):
    """Convolutions, and a fully-connected output (Appendix C).

    Attributes:
        layers: the convolutions, first to last, as :class:`Convolution` or as mappings of its fields.
        normalise: what the sums of layers 2 and above are divided by. ``terms``: their number of terms, n_{l-1} k_l^2
            and at the output n_L times the remaining pixels. ``filters``: n_{l-1} alone, as the formula of Appendix C
            reads.
        biases: False for a network without.
        frozen: layers, 1 to L + 1, that keep their initial weights and biases.
        output_scale: gamma, which multiplies the output. Learning is lazy where it is large, at alpha / gamma^2.
    """

    layers: list[Any] = field(default_factory=list)
    normalise: str = "terms"
    biases: bool = True
    frozen: list[int] = field(default_factory=list)
    output_scale: float = 1.0

    precisions = ("float32", "tf32")
    kind = "convolutions"

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

    def accept(self, blueprint: Blueprint, names: Mapping[str, str]) -> None:
        self._fit(blueprint.depth)
        super().accept(blueprint, names)
        self.sizes(blueprint.image)

    def _fit(self, depth: int) -> None:
        """Raises ConfigError where the depth is not the number of layers listed, the output included."""
        L = len(self.layers)
        if depth != L + 1:
            why = f"architecture.layers lists {L} convolutions; with the output that is depth={L + 1}"
            raise ConfigError("depth", depth, why)

    def widths(self, n: int, depth: int) -> list[int]:
        """n_1 .. n_L, filters of a finite network."""
        self._fit(depth)
        widths = [round(n * layer.ratio) for layer in self.layers]
        if min(widths) < 1:
            i = widths.index(min(widths))
            key = f"architecture.layers[{i}].ratio"
            raise ConfigError(key, self.layers[i].ratio, f"leaves no filters at width={n}")
        return widths

    def sizes(self, image: Image | None) -> list[tuple[int, int]]:
        """Height and width of the images that enter layers 1 .. L + 1.

        Raises:
            ConfigError: the data are no images, or a layer leaves nothing of them.
        """
        if image is None:
            why = "needs images: dataset=mnist, cifar10, or arrays of shape (samples, height, width, channels)"
            raise ConfigError("architecture", "cnn", why)
        sizes = [image[:2]]
        for i, layer in enumerate(self.layers):
            height, width = sizes[-1]
            sizes.append((layer.size(height), layer.size(width)))
            if min(sizes[-1]) < 1:
                given = {"kernel": layer.kernel, "stride": layer.stride, "padding": layer.pad, "pool": layer.pool}
                raise ConfigError(f"architecture.layers[{i}]", given, f"leaves nothing of {height} x {width} pixels")
        return sizes

    def met(self, blueprint: Blueprint) -> list[int]:
        """Filters of a layer meet every pixel that they are laid on."""
        sides = zip(self.layers, self.sizes(blueprint.image), strict=False)
        return [*(math.prod(map(layer.convolved, size)) for layer, size in sides), 1]

    def products(self, blueprint: Blueprint, precision: str) -> Products:
        found = super().products(blueprint, precision)
        return replace(found, library="cuDNN" if blueprint.device.type == "cuda" else "oneDNN")

    def receptive(self, x: Tensor, blueprint: Blueprint) -> Tensor:
        """Patches under the kernel of layer 1, (samples * pixels, channels * height * width)."""
        first = self.layers[0]
        patches = F.unfold(as_images(x, _image(blueprint)), first.kernel, padding=first.pad, stride=first.stride)
        return patches.mT.flatten(0, 1)

    def kernels(self, image: Image) -> list[tuple[int, int]]:
        """The receptive fields of layers 1 .. L + 1; the output's is all that is left of the image."""
        return [*((layer.kernel, layer.kernel) for layer in self.layers), self.sizes(image)[-1]]

    def terms(self, image: Image) -> list[int]:
        """c_1 .. c_{L+1}, what the sums are divided by besides the number of filters."""
        inner = [h * w if self.normalise == "terms" else 1 for h, w in self.kernels(image)[1:]]
        return [1, *inner]

    def layers_of(self, blueprint: Blueprint) -> Layers:
        """A kernel between any two filters."""
        image = _image(blueprint)
        return Layers(image[2], blueprint.n_out, tuple(self.kernels(image)), self.biases)

    def network(self, drawn: Drawn, blueprint: Blueprint) -> Conv:
        image, b = _image(blueprint), drawn.b if self.biases else None
        return Conv(drawn.W, b, drawn.p, blueprint.activation, self.layers, self.terms(image), image)


def _image(blueprint: Blueprint) -> Image:
    """The shape of the inputs, which :meth:`ConvArchitecture.accept` has seen."""
    assert blueprint.image is not None
    return blueprint.image
