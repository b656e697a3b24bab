"""Features of images: the convolutional layers of VGG16, trained on ImageNet (Section 4.2.1, Figure 11)."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from mfrun.config import conf_dir
from mfrun.errors import ConfigError, UserError, typed
from mfrun.problems.chunks import Chunk, ChunkedArrays
from mfrun.problems.problem import FiniteProblem, Problem
from mfrun.registry import create, quote, register
from mfrun.runs.progress import INTERVAL, say

# VGG16 halves the side of an image five times, and ends with 512 channels.
STRIDE, CHANNELS = 32, 512
# Hexadecimal digits of a sha256 that name a file of weights: torchvision's own convention, vgg16-397923af.pth.
DIGITS = 8
# The word in the place of a file that asks for weights as a network starts with them.
UNTRAINED = "untrained"
# A value that stands on a command line as it is; anything else needs Hydra's quotes.
_PLAIN = re.compile(r"[\w./+-]+")


@register("dataset", "vgg16")
@dataclass
class VGG16Features:
    """Another data set's images, replaced by what VGG16's convolutional layers make of them.

    Each image is brought to size x size pixels, normalised as torchvision's weights ask for, and passed through
    ``torchvision.models.vgg16().features``: d = 512 (size / 32)^2, and 8192 for the paper's size of 128. The
    features are computed once, by ``mfrun data``, and kept on disk in half precision.

    Attributes:
        source: the node of a data set of images, 8 bits a pixel.
        root: folder whose ``vgg16/`` holds the features.
        weights: file of VGG16's weights; empty for torchvision's, trained on ImageNet; ``untrained`` for weights as
            they are before training, always the same ones: what features owe to the architecture alone.
        size: pixels in the side of an upscaled image, a multiple of 32; the paper takes 128.
        images: how many pass through VGG16 at once.
    """

    source: dict[str, Any] = field(default_factory=dict)
    root: str = "data"
    weights: str = ""
    size: int = 128
    images: int = 50

    def __post_init__(self) -> None:
        if self.size < STRIDE or self.size % STRIDE:
            raise ConfigError("size", self.size, f"must be a multiple of {STRIDE}")
        if self.images < 1:
            raise ConfigError("images", self.images, "must be at least 1")

    @property
    def d(self) -> int:
        """Number of features."""
        return CHANNELS * (self.size // STRIDE) ** 2

    def load(self, dtype: torch.dtype, device: torch.device) -> Problem:
        """The features with the source's labels; they stay in half precision, and on a CPU in their file.

        Raises:
            UserError: the source cannot be read; the features are damaged, or have not all been computed.
        """
        source = self._source()
        arrays = self._arrays(source, self._digits() if self.weights else _published()[1])
        missing, chunks = arrays.missing(), arrays.chunks()
        if missing:
            done = sum(c.last - c.first for c in chunks) - sum(c.last - c.first for c in missing)
            total = sum(arrays.rows.values())
            raise UserError(
                f"dataset.root={self.root}: {arrays.folder} holds whole features of {done} of {total} images; run: "
                f"{self.command()}"
            )
        data = {s: (torch.from_numpy(arrays.load(s)), y) for s, (_, y) in source.data.items()}
        return FiniteProblem(data, source.task, source.n_out, dtype, device)

    def prepare(self, device: torch.device) -> None:
        """Compute the features that are missing or damaged. May be stopped at any moment, and called again.

        Raises:
            ConfigError: the source has no images, or the weights are not VGG16's.
            UserError: the weights cannot be fetched, or the features not be written.
        """
        source, digits = self._source(), self._digits()
        if not self.weights and digits != _published()[1]:
            file = self._weights_file()
            raise UserError(f"{file}: is damaged (its sha256 is not that in its name); remove it to fetch it again")
        arrays = self._arrays(source, digits)
        if not arrays.missing():
            return
        vgg16 = untrained_vgg16() if self.weights == UNTRAINED else read_vgg16(self._weights_file())
        vgg16 = vgg16.to(device).to(memory_format=torch.channels_last)
        pixels = {split: x.view(-1, *_image(source)) for split, (x, _) in source.data.items()}
        with arrays.locked():
            self._compute(vgg16, pixels, arrays, arrays.missing(), device)

    def command(self) -> str:
        """What a user types to have the features computed."""
        option = f"{self.source['name']}_vgg16"
        if not (conf_dir() / "dataset" / f"{option}.yaml").is_file():
            return "mfrun data, with the data set and the keys that are given here"
        keys = {f"source.{k}": v for k, v in self.source.items() if k not in ("name", "root", "task", "download")}
        keys |= {"root": self.root}
        keys |= {k: v for k in ("weights", "size") if (v := getattr(self, k)) != getattr(VGG16Features, k)}
        texts = {f"dataset.{k}": typed(v) for k, v in keys.items()}
        words = [f"{k}={v if _PLAIN.fullmatch(v) else quote(v)}" for k, v in texts.items()]
        return shlex.join(["mfrun", "data", option, *words])

    def _source(self) -> FiniteProblem:
        """The images, on the CPU."""
        dataset = create("dataset", self.source, "dataset.source")
        try:
            problem = dataset.load(torch.float32, torch.device("cpu"))
        except ConfigError as error:
            raise ConfigError(f"dataset.source.{error.key}", error.value, error.allowed) from error
        except UserError as error:  # The source names its keys as a data set by itself would; `root` is the same here.
            raise UserError(str(error).replace("dataset.download", "dataset.source.download")) from error
        pixels = isinstance(problem, FiniteProblem) and all(x.dtype == torch.uint8 for x, _ in problem.data.values())
        if not pixels or problem.image is None or problem.image[2] not in (1, 3):
            why = "has no images of 8 bits a pixel, grey or RGB; an .npz has them as uint8 (N, H, W, 3) or (N, H, W, 1)"
            raise ConfigError("dataset.source.name", self.source["name"], why)
        return problem

    def _arrays(self, source: FiniteProblem, weights: str) -> ChunkedArrays:
        """Where the features lie: each choice of images, weights and size in a folder of its own."""
        identity = {
            "source": self.source["name"],
            "images": {split: [len(x), *_image(source)] for split, (x, _) in source.data.items()},
            "pixels_sha256": {split: _sha256_of(x) for split, (x, _) in source.data.items()},
            "weights": weights,
            "size": self.size,
            "d": self.d,
        }
        key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:DIGITS]
        folder = Path(self.root) / "vgg16" / f"{self.source['name']}-{key}"
        return ChunkedArrays(folder, identity, {split: len(x) for split, (x, _) in source.data.items()}, self.d)

    def _compute(
        self,
        vgg16: nn.Module,
        pixels: Mapping[str, Tensor],
        arrays: ChunkedArrays,
        chunks: list[Chunk],
        device: torch.device,
    ) -> None:
        total, left = sum(arrays.rows.values()), sum(c.last - c.first for c in chunks)
        before = done = total - left
        started = last_line = time.monotonic()
        terminal = sys.stderr.isatty()
        bar = tqdm(total=total, initial=done, desc="features", unit="image", disable=not terminal, dynamic_ncols=True)
        try:
            for chunk in chunks:
                parts = []
                for part in torch.split(pixels[chunk.name][chunk.first : chunk.last], self.images):
                    parts.append(features(vgg16, part.to(device), self.size).cpu())
                    bar.update(len(part))
                values = torch.cat(parts)
                if not bool(torch.isfinite(values).all()):
                    raise UserError(f"dataset.weights={self.weights}: gives features that half precision cannot hold")
                arrays.write(chunk, values.numpy())
                done += len(values)
                now = time.monotonic()
                if not terminal and (now - last_line > INTERVAL or done == total):
                    last_line, speed = now, (done - before) / (now - started)
                    say(f"features  image {done}/{total}  {speed:.1f} images/s  {(total - done) / speed:.0f} s to go")
        except KeyboardInterrupt:
            say(f"features  stopped at image {done}/{total}; the same command goes on from there")
            raise
        finally:
            bar.close()

    def _digits(self) -> str:
        """What tells these weights from others."""
        return UNTRAINED if self.weights == UNTRAINED else _digest(self._weights_file())[:DIGITS]

    def _weights_file(self) -> Path:
        """The file of weights; torchvision's is fetched where it is missing."""
        if self.weights:
            if not Path(self.weights).is_file():
                raise ConfigError("dataset.weights", self.weights, f"no such file; {UNTRAINED} draws weights")
            return Path(self.weights)
        url, digits = _published()
        file = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
        if not file.is_file():
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(url, str(file), hash_prefix=digits, progress=sys.stderr.isatty())
            except (OSError, RuntimeError, http.client.HTTPException) as error:
                why = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise UserError(
                    f"dataset.weights: {file.name} could not be fetched ({why}); get {url} where there is a network "
                    f"and put it at {file}, or name the file with dataset.weights=PATH"
                ) from error
        return file


def features(vgg16: nn.Module, images: Tensor, size: int) -> Tensor:
    """Features of a batch of images.

    The images become size x size (bilinear; of an image that is not square, the shorter side does, and its middle is
    taken), then normalised by ImageNet's means and deviations: torchvision's documented preprocessing for its weights,
    on pixels that are not rounded after upscaling.

    Args:
        vgg16: its convolutional layers, in eval mode.
        images: (B, H, W, C) uint8; C = 1 is repeated for the three colours.
        size: side in pixels.

    Returns:
        (B, 512 (size / 32)^2) float16, channels first, as torchvision flattens them.
    """
    from torchvision.models import VGG16_Weights

    preprocess = VGG16_Weights.IMAGENET1K_V1.transforms(crop_size=size, resize_size=size)
    x = images.movedim(-1, 1).expand(-1, 3, -1, -1).float().div_(255)
    # The same features on every run and, but for rounding, on every device: float32 products, no choice by timing.
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.inference_mode(), exact:
        y = vgg16(preprocess(x).contiguous(memory_format=torch.channels_last))
    return y.flatten(1).half()


def read_vgg16(file: Path) -> nn.Module:
    """VGG16's convolutional layers with the weights of a file, which is read without running what may be in it.

    Args:
        file: a state dict as ``torch.save`` writes it, with torchvision's names; those of the dense layers may be
            missing.

    Raises:
        ConfigError: it is not that.
    """

    def refuse(why: str) -> ConfigError:
        return ConfigError("dataset.weights", file, why)

    vgg16 = _shapes()
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # Whatever torch's reader meets.
        raise refuse("cannot be read as weights that torch.save wrote") from error
    found = {}
    for name, like in vgg16.state_dict().items():
        value = state.get(f"features.{name}") if isinstance(state, Mapping) else None
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise refuse(f"holds no VGG16: features.{name} is missing")
        if value.shape != like.shape:
            raise refuse(f"holds no VGG16: features.{name} is {tuple(value.shape)}, not {tuple(like.shape)}")
        found[name] = value.float()
    vgg16.load_state_dict(found, assign=True)
    return vgg16


def untrained_vgg16() -> nn.Module:
    """VGG16's convolutional layers before training: He's deviations, which keep the size of what passes, and no biases.

    They are always the same ones. Torchvision's own start, which goes by fan-out, would make the features a tenth
    as large.
    """
    vgg16, generator = _shapes().to_empty(device="cpu"), torch.Generator().manual_seed(0)
    for layer in vgg16.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            layer.bias = nn.Parameter(torch.zeros(layer.out_channels))
    return vgg16


def _shapes() -> nn.Module:
    """VGG16's convolutional layers without numbers."""
    import torchvision

    with torch.device("meta"):
        return torchvision.models.vgg16().features.eval()


def _published() -> tuple[str, str]:
    """(URL of torchvision's weights, the first digits of their sha256)."""
    from torchvision.models import VGG16_Weights

    url = VGG16_Weights.IMAGENET1K_V1.url
    return url, Path(url).stem.rpartition("-")[2]


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as data:
            return hashlib.file_digest(data, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError("dataset.weights", file, f"cannot be read ({error.strerror})") from error


def _sha256_of(x: Tensor) -> str:
    return hashlib.sha256(x.numpy().data.cast("B")).hexdigest()


def _image(source: FiniteProblem) -> tuple[int, int, int]:
    assert source.image is not None
    return source.image
