"""VGG16 features against torchvision's layers in float64; computations that are killed; files that are damaged."""

from __future__ import annotations

import fcntl
import json
import math
import pickle
import random
import re
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from formats import images, write_arrays, write_mnist
from torch.nn.functional import interpolate

from mfrun import cli
from mfrun.config import Config
from mfrun.dynamics.experiment import load_problem
from mfrun.errors import ConfigError, UserError
from mfrun.problems.chunks import ROWS, Chunk, ChunkedArrays
from mfrun.problems.features import VGG16Features, features, read_vgg16, untrained_vgg16
from mfrun.problems.problem import FiniteProblem
from mfrun.problems.tasks import Task

CPU = torch.device("cpu")
# Half precision rounds by 2^-11; float32 sums over thousands of terms add a little.
HALF = {"rtol": 2**-11 + 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights that keep the size of what passes through, in torchvision's names."""
    with torch.device("meta"):
        layers = torchvision.models.vgg16().features
    layers.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in layers.parameters():
            p.normal_(0, 0.1 if p.ndim == 1 else (2 / p[0].numel()) ** 0.5, generator=generator)
    file = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    torch.save({f"features.{name}": value for name, value in layers.state_dict().items()}, file)
    return file


@pytest.fixture(autouse=True)
def folder(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Every test sees no weights fetched before, and reaches no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("MFRUN_DATA", raising=False)
    return tmp_path


def write_images(
    counts: tuple[int, int] = (7, 4), shape: tuple[int, ...] = (8, 8, 3), file: str = "a.npz"
) -> dict[str, np.ndarray]:
    (x, y), (u, v) = (images(seed, count, shape) for seed, count in enumerate(counts))
    arrays = {"x_train": x, "y_train": y, "x_test": u, "y_test": v}
    np.savez(file, **arrays)
    return arrays


def component(weights: Path, **keys: object) -> VGG16Features:
    keys = {"source": {"name": "arrays", "path": "a.npz"}, "root": ".", "size": 32, **keys}
    return VGG16Features(weights=str(weights), **keys)  # type: ignore[arg-type]


def load(weights: Path, dtype: str = "float32", **keys: object) -> FiniteProblem:
    dataset = {"name": "vgg16", "source": {"name": "arrays", "path": "a.npz"}, "root": ".", "size": 32, **keys}
    problem = load_problem(Config(dataset=dataset | {"weights": str(weights)}, dtype=dtype, device="cpu"))
    assert isinstance(problem, FiniteProblem)
    return problem


def here(*argv: str) -> int:
    """``mfrun ARGV`` in this process."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(argv))
    return int(stopped.value.code or 0)


def words(weights: Path, *more: str) -> list[str]:
    return ["dataset.source.path=a.npz", "dataset.root=.", f"dataset.weights={weights}", "dataset.size=32", *more]


# -- the features --------------------------------------------------------------------------------------------------


def by_hand(weights: Path, pixels: np.ndarray, size: int) -> torch.Tensor:
    """Section 4.2.1 in float64: upscale, normalise as ImageNet was, and torchvision's own layers."""
    with torch.device("meta"):
        layers = torchvision.models.vgg16().features
    state = {k.removeprefix("features."): v.double() for k, v in torch.load(weights).items()}
    layers.load_state_dict(state, assign=True)
    x = torch.from_numpy(pixels).double().permute(0, 3, 1, 2) / 255
    x = torch.cat([x] * (3 // x.shape[1]), 1)
    side = min(x.shape[2:])
    top, left = (x.shape[2] - side) // 2, (x.shape[3] - side) // 2
    x = x[:, :, top : top + side, left : left + side]
    x = interpolate(x, (size, size), mode="bilinear", align_corners=False, antialias=side > size)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        return layers((x - mean.view(3, 1, 1)) / std.view(3, 1, 1)).flatten(1)


@pytest.mark.parametrize(
    ("shape", "size", "d"),
    [((32, 32, 3), 128, 8192), ((28, 28, 1), 64, 2048), ((8, 8, 3), 32, 512), ((40, 40, 3), 32, 512)],
)
def test_features_are_torchvisions(weights: Path, shape: tuple[int, ...], size: int, d: int) -> None:
    pixels = images(3, 2, shape)[0]
    got = features(read_vgg16(weights), torch.from_numpy(pixels), size)
    assert (got.shape, got.dtype) == ((2, d), torch.float16)
    expected = by_hand(weights, pixels, size)
    assert 0.1 < expected.std() < 10
    torch.testing.assert_close(got.double(), expected, **HALF)
    assert not torch.allclose(expected[0], expected[1], rtol=0.1)


def test_the_middle_of_an_image_that_is_not_square(weights: Path) -> None:
    """An image twice as wide as high: upscaled first and cut then, its features are nearly those of its middle."""
    vgg16, wide = read_vgg16(weights), np.repeat(images(0, 1, (8, 4, 3))[0], 4, axis=2)[:, :, :16]
    got = features(vgg16, torch.from_numpy(wide), 32)
    preset = torchvision.models.VGG16_Weights.DEFAULT.transforms(crop_size=32, resize_size=32)
    with torch.no_grad():
        expected = vgg16(preset(torch.from_numpy(wide).movedim(-1, 1).float() / 255)).flatten(1)
    torch.testing.assert_close(got.float(), expected, **HALF)


def test_published_weights_and_their_preprocessing_are_the_documented_ones() -> None:
    published = torchvision.models.VGG16_Weights.IMAGENET1K_V1
    assert published.url.endswith("/vgg16-397923af.pth")
    preset = published.transforms()
    assert (preset.mean, preset.std) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def test_both_of_torchs_formats_are_read(weights: Path) -> None:
    torch.save(torch.load(weights), "old.pth", _use_new_zipfile_serialization=False)
    old, new = read_vgg16(Path("old.pth")).state_dict(), read_vgg16(weights).state_dict()
    assert all(torch.equal(old[k], new[k]) for k in new)


def test_untrained_weights_need_no_file_and_are_the_same_everywhere() -> None:
    """He's law: biases 0, deviation sqrt(2 / (9 n_in)); and one network for ever."""
    arrays = write_images()
    for root in ("one", "two"):
        component(Path("untrained"), root=root).prepare(CPU)
    one, two = (load(Path("untrained"), root=root).data["train"][0] for root in ("one", "two"))
    assert torch.equal(one, two)
    assert one.float().std() > 0.1
    vgg16 = untrained_vgg16()
    torch.testing.assert_close(features(vgg16, torch.from_numpy(arrays["x_train"]), 32), one, rtol=2**-9, atol=1e-3)
    for name, p in vgg16.named_parameters():
        if "weight" in name:
            assert float(p.detach().std()) == pytest.approx(math.sqrt(2 / p[0].numel()), rel=0.1)
        else:
            assert not p.any()
    with pytest.raises(ConfigError, match="no such file; untrained draws weights"):
        component(Path("untraned")).prepare(CPU)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_computed_stored_and_loaded(weights: Path, dtype: str) -> None:
    arrays = write_images()
    component(weights).prepare(CPU)
    problem = load(weights, dtype)
    assert (problem.d, problem.n_out, problem.task, problem.image) == (512, 7, Task.CLASSES, None)
    for split in ("train", "test"):
        stored = problem.data[split][0]
        assert stored.dtype == torch.float16
        expected = by_hand(weights, arrays[f"x_{split}"], 32)
        torch.testing.assert_close(stored.double(), expected, **HALF)
        x, y = problem.gather(torch.arange(len(stored)), split)
        assert x.dtype == getattr(torch, dtype)
        assert torch.equal(x.half(), stored)
        assert y.tolist() == arrays[f"y_{split}"].tolist()
    # The files are plain .npy, and a problem does not write to them.
    (file,) = Path("vgg16").glob("*/test.npy")
    before = file.read_bytes()
    problem.data["test"][0].zero_()
    assert file.read_bytes() == before
    assert np.load(file, allow_pickle=False).shape == (4, 512)


def test_digits_seen_through_vgg16(weights: Path) -> None:
    """Any data set of images can be a source."""
    written = write_mnist(Path())
    mnist = {"name": "mnist", "root": ".", "download": False}
    with pytest.raises(UserError, match="of 0 of 30 images; run: mfrun data, with the data set and the keys"):
        load(weights, source=mnist)
    component(weights, source=mnist).prepare(CPU)
    expected = by_hand(weights, written["test"][0][..., None], 32)
    torch.testing.assert_close(load(weights, source=mnist).data["test"][0].double(), expected, **HALF)


def test_how_many_pass_at_once_does_not_matter(weights: Path) -> None:
    write_images()
    found = []
    for count in (1, 3, 50):
        component(weights, root=f"r{count}", images=count).prepare(CPU)
        found.append(load(weights, root=f"r{count}").data["train"][0])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=2**-10, atol=1e-4)


def test_images_weights_and_sizes_have_folders_of_their_own(weights: Path) -> None:
    write_images()
    write_images((7, 4), (9, 9, 3), "b.npz")
    other = {k: v * 1.01 for k, v in torch.load(weights).items()}
    torch.save(other, "other.pth")
    b = {"name": "arrays", "path": "b.npz"}
    kinds = [(weights, {}), (weights, {"size": 64}), (weights, {"source": b}), (Path("other.pth"), {})]
    for done, (file, keys) in enumerate(kinds):
        with pytest.raises(UserError, match="holds whole features of 0 of 11 images"):
            load(file, **keys)
        component(file, **keys).prepare(CPU)
        assert len(list(Path("vgg16").iterdir())) == done + 1
    values = [load(file, **keys).data["train"][0] for file, keys in kinds]
    assert not any(torch.equal(v, values[0]) for v in values[1:])
    # The file's content counts, not where it lies.
    Path("again.pth").write_bytes(weights.read_bytes())
    assert torch.equal(load(Path("again.pth")).data["train"][0], values[0])


# -- chunks --------------------------------------------------------------------------------------------------------

D = 4
ROWS_OF = {"train": 2 * ROWS + 30, "test": ROWS}


def value(chunk: Chunk) -> np.ndarray:
    rows = np.arange(chunk.first, chunk.last)[:, None] * 8 + np.arange(D)
    return (rows + (0.5 if chunk.name == "test" else 0)).astype(np.float16)


def chunked(folder: str = "c", **identity: object) -> ChunkedArrays:
    return ChunkedArrays(Path(folder), {"of": "a test", **identity}, ROWS_OF, D)


def complete(arrays: ChunkedArrays, at_most: int = 100) -> int:
    """Compute what is missing; how many chunks that was."""
    with arrays.locked():
        missing = arrays.missing()[:at_most]
        for chunk in missing:
            arrays.write(chunk, value(chunk))
    return len(missing)


def content(folder: str) -> dict[str, bytes]:
    return {name: Path(folder, f"{name}.npy").read_bytes() for name in ROWS_OF}


def test_chunks_are_the_array() -> None:
    assert [c for c in chunked().chunks() if c.name == "train"] == [
        ("train", 0, 100),
        ("train", 100, 200),
        ("train", 200, 230),
    ]
    assert complete(chunked()) == 4
    assert chunked().missing() == []
    for name, n in ROWS_OF.items():
        np.testing.assert_array_equal(chunked().load(name), value(Chunk(name, 0, n)))
        np.testing.assert_array_equal(np.load(f"c/{name}.npy", allow_pickle=False), value(Chunk(name, 0, n)))


def flip_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def garbage_in_what_is_not_committed(c: Path) -> None:
    with (c / "train.npy").open("r+b") as out:
        out.seek(-30 * D * 2, 2)
        out.write(b"\xff" * 30 * D * 2)


def drop_commit_of(name: str, first: str) -> Callable[[Path], None]:
    def damage(c: Path) -> None:
        commit = json.loads((c / "chunks.json").read_text())
        del commit["sha256"][name][first]
        (c / "chunks.json").write_text(json.dumps(commit))

    return damage


DAMAGES: dict[str, tuple[int, Callable[[Path], object], int]] = {
    # name: (chunks computed before, damage, chunks to be computed after)
    "none": (4, lambda c: None, 0),
    "stopped": (2, lambda c: None, 2),
    "garbage beyond the commit": (2, garbage_in_what_is_not_committed, 2),
    "written, not committed": (4, drop_commit_of("train", "200"), 1),
    "byte of the last chunk": (4, lambda c: flip_byte(c / "test.npy"), 1),
    "cut array": (4, lambda c: (c / "train.npy").write_bytes((c / "train.npy").read_bytes()[:-1]), 3),
    "cut header": (4, lambda c: (c / "train.npy").write_bytes(b"\x93NUMPY\x01"), 3),
    "empty array": (1, lambda c: (c / "test.npy").write_bytes(b""), 3),
    "no array": (4, lambda c: (c / "test.npy").unlink(), 1),
    "array of another size": (4, lambda c: np.save(c / "test.npy", np.zeros((ROWS, 3), np.float16)), 1),
    "array of another type": (4, lambda c: np.save(c / "test.npy", np.zeros((ROWS, D), np.float32)), 1),
    "pickled objects": (4, lambda c: np.save(c / "test.npy", np.array([[{}] * D] * ROWS)), 1),
    "no commit": (4, lambda c: (c / "chunks.json").unlink(), 4),
    "cut commit": (4, lambda c: (c / "chunks.json").write_text((c / "chunks.json").read_text()[:-9]), 4),
    "empty commit": (4, lambda c: (c / "chunks.json").write_text(""), 4),
    "commit of another kind": (4, lambda c: (c / "chunks.json").write_text("[1, 2]"), 4),
    "commit left half-written": (2, lambda c: (c / ".chunks.json.x.partial").write_text("{"), 2),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_whole_is_kept_and_the_rest_computed_again(damage: str) -> None:
    before, do, after = DAMAGES[damage]
    complete(chunked("straight"))
    assert complete(chunked("c"), before) == before
    do(Path("c"))
    assert complete(chunked("c")) == after
    assert content("c") == content("straight")
    assert chunked("c").missing() == []


def test_another_identity_is_another_computation() -> None:
    complete(chunked())
    assert len(chunked(size=64).missing()) == 4


def test_one_process_at_a_time() -> None:
    with chunked().locked(), pytest.raises(UserError, match="c: another process is computing"), chunked().locked():
        pass
    complete(chunked())


def committed(folder: str) -> int:
    """Chunks that the commit somewhere in a folder names."""
    found = list(Path(folder).rglob("chunks.json"))
    return sum(map(len, json.loads(found[0].read_text())["sha256"].values())) if found else 0


def kill_at(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 0) -> None:
    """``kill -9``, some time after the condition has come true."""
    end = time.monotonic() + 60
    while process.poll() is None and not condition():
        assert time.monotonic() < end
        time.sleep(0.002)
    assert condition(), process.communicate()
    time.sleep(seconds)
    process.kill()
    process.communicate()


WRITER = """
import sys, time
from pathlib import Path
import numpy as np
from mfrun.problems.chunks import ChunkedArrays
arrays = ChunkedArrays(Path(sys.argv[1]), {}, {"train": 6000, "test": 1000}, 50)
with arrays.locked():
    for chunk in arrays.missing()[: int(sys.argv[2])]:
        key = [len(chunk.name), chunk.first]
        arrays.write(chunk, np.random.default_rng(key).standard_normal((chunk.last - chunk.first, 50)))
        time.sleep(0.01)  # long enough to be killed at
    if arrays.missing():
        time.sleep(60)  # until it is killed
"""


def test_killed_again_and_again(folder: Path) -> None:
    moment, kills, before = random.Random(1), 0, 0
    while before < 40:  # of 70 chunks
        command = [sys.executable, "-c", WRITER, "c", "20"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        kill_at(lambda least=before + 6: committed("c") >= least, process, moment.uniform(0, 0.01))
        kills, before = kills + 1, committed("c")
    assert kills >= 2
    for name in ("c", "straight"):
        subprocess.run([sys.executable, "-c", WRITER, name, "70"], check=True)
    for name in ("train.npy", "test.npy", "chunks.json"):
        assert Path("c", name).read_bytes() == Path("straight", name).read_bytes()


def test_a_disk_that_refuses() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(UserError, match=r"c/train.npy: cannot be written \(File too large\)"):
            complete(chunked())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(UserError, match=r"train.npy: needs \d+.\d+ GB, of which its disk has"):
        complete(ChunkedArrays(Path("c"), {}, {"train": 10**9}, 10**6))
    assert complete(chunked()) == 4


# -- the command ---------------------------------------------------------------------------------------------------


# mfrun that computes the features of no test image, but waits there to be killed.
UNENDING = """
import time
from mfrun.cli import main
from mfrun.problems.chunks import ChunkedArrays
write = ChunkedArrays.write
def held(self, chunk, values):
    if chunk.name == "test":
        time.sleep(60)
    write(self, chunk, values)
ChunkedArrays.write = held
main()
"""


def test_a_computation_that_is_killed_goes_on(weights: Path, capfd: pytest.CaptureFixture[str]) -> None:
    counts = (ROWS + 10, 10)
    write_images(counts, (4, 4, 3))
    argv = ["data", "arrays_vgg16", *words(weights, "threads=1")]
    command = [sys.executable, "-c", UNENDING, *argv]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    kill_at(lambda: committed("vgg16") >= 1, process)
    assert 1 <= committed("vgg16") < 3
    assert here(*argv) == 0
    out, err = capfd.readouterr()
    assert f"image {sum(counts)}/{sum(counts)} " in err
    assert out.splitlines()[0] == "d = 512, classes labels, 10 classes"
    component(weights, root="straight").prepare(CPU)
    (killed,), (straight,) = Path("vgg16").iterdir(), Path("straight/vgg16").iterdir()
    assert killed.name == straight.name
    for name in ("train.npy", "test.npy", "chunks.json"):
        assert (killed / name).read_bytes() == (straight / name).read_bytes()


def test_train_on_features(weights: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # A name that neither a shell nor Hydra takes as it is.
    write_images(file="it's a, b.npz")
    path = r"dataset.source.path='it\'s a, b.npz'"
    argv = ["dataset=arrays_vgg16", *words(weights, path, "threads=1", "width=3", "depth=3", "steps=10", "dir=r")]
    assert here("train", *argv) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("mfrun: dataset.root=.: vgg16/arrays-")
    assert "holds whole features of 0 of 11 images; run: mfrun data arrays_vgg16 " in line
    assert not Path("r").exists()
    # The line says what to type.
    assert here(*shlex.split(line.partition("run: mfrun ")[2])) == 0
    assert here("train", *argv) == 0
    assert "test_loss" in Path("r/metrics.csv").read_text()
    assert not [p for p in Path().iterdir() if p.name == "torch"]  # nothing was fetched


def test_damaged_features_are_refused_and_mended(weights: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_images()
    argv = ["data", "arrays_vgg16", *words(weights)]
    assert here(*argv) == 0
    (file,) = Path("vgg16").glob("*/test.npy")
    whole = file.read_bytes()
    flip_byte(file)
    with pytest.raises(UserError, match=r"holds whole features of 7 of 11 images; run: mfrun data arrays_vgg16 "):
        load(weights)
    assert here(*argv) == 0
    assert file.read_bytes() == whole
    load(weights)


def test_weights_that_cannot_be_fetched(capfd: pytest.CaptureFixture[str]) -> None:
    write_images()
    assert here("data", "arrays_vgg16", "dataset.source.path=a.npz", "dataset.root=.") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("mfrun: dataset.weights: vgg16-397923af.pth could not be fetched (")
    assert f"put it at {Path('torch/hub/checkpoints/vgg16-397923af.pth').resolve()}, or name the file with" in line
    assert not list(Path("torch").rglob("*.p*"))


def test_fetched_weights_that_are_damaged(weights: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_images()
    fetched = Path("torch/hub/checkpoints/vgg16-397923af.pth")
    fetched.parent.mkdir(parents=True)
    fetched.write_bytes(weights.read_bytes())
    assert here("data", "arrays_vgg16", "dataset.source.path=a.npz", "dataset.root=.") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "vgg16-397923af.pth: is damaged" in line
    assert not Path("vgg16").exists()


class Touch:
    """Unpickled by a reader that runs what it reads, it makes a file."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("ran"),)  # type: ignore[return-value]


def bad_weights(kind: str, weights: Path) -> object:
    state = torch.load(weights)
    return {
        "objects": {**state, "features.0.weight": Touch()},
        "a number": 3,
        "no tensors": {"a": 1},
        "no VGG16": {"features.0.weight": torch.zeros(64, 3, 3, 3)},
        "other shape": {**state, "features.28.bias": torch.zeros(511)},
        "integers": {**state, "features.5.weight": state["features.5.weight"].int()},
    }[kind]


BAD_WEIGHTS = {
    "objects": "cannot be read as weights",
    "a number": "features.0.weight is missing",
    "no tensors": "features.0.weight is missing",
    "no VGG16": "features.0.bias is missing",
    "other shape": r"features.28.bias is \(511,\), not \(512,\)",
    "integers": "features.5.weight is missing",
}


@pytest.mark.parametrize("kind", BAD_WEIGHTS)
def test_weights_of_another_kind(weights: Path, kind: str) -> None:
    write_images()
    torch.save(bad_weights(kind, weights), "bad.pth")
    with pytest.raises(ConfigError, match=f"^dataset.weights=bad.pth: .*{BAD_WEIGHTS[kind]}") as caught:
        component(Path("bad.pth")).prepare(CPU)
    assert "\n" not in str(caught.value)
    assert not Path("ran").exists()
    assert not Path("vgg16").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("data", [b"", b"hello", b"PK\x03\x04", pickle.dumps({"a": Touch()}), b"\x80\x02}q\x00."])
def test_files_that_hold_no_weights(data: bytes) -> None:
    Path("bad.pth").write_bytes(data)
    with pytest.raises(ConfigError, match=r"^dataset.weights=bad.pth: ") as caught:
        read_vgg16(Path("bad.pth"))
    assert "\n" not in str(caught.value)
    assert not Path("ran").exists()


def test_weights_that_overflow_half_precision(weights: Path) -> None:
    write_images()
    torch.save({k: v * 4 for k, v in torch.load(weights).items()}, "large.pth")
    with pytest.raises(UserError, match=r"dataset.weights=large.pth: .*half precision cannot hold"):
        component(Path("large.pth")).prepare(CPU)


def test_sources_that_are_no_images(weights: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_arrays(Path("floats.npz"))
    write_images((5, 5), (8, 8, 4), "rgba.npz")
    write_images((5, 5), (192,), "rows.npz")
    for path in ("floats.npz", "rgba.npz", "rows.npz"):
        with pytest.raises(ConfigError, match=r"^dataset.source.name=arrays: has no images of 8 bits") as caught:
            component(weights, source={"name": "arrays", "path": path}).prepare(CPU)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"^dataset.source.name=gaussians: has no images"):
        component(weights, source={"name": "gaussians"}).prepare(CPU)


ARRAYS_VGG16 = "data arrays_vgg16 dataset.source.path=a.npz dataset.root=. dataset.weights={weights}"
LINES = [
    ("data", "^data: give one data set; mfrun data --help lists them"),
    ("data mnist cifar10", "^data mnist cifar10: give one data set"),
    ("data mnist,cifar10", "^data mnist,cifar10: give one data set"),
    ("data cifar01_vgg16", "^dataset=cifar01_vgg16: unknown; one of arrays, .*did you mean cifar10_vgg16"),
    ("data mnist dataset.rot=x", "^dataset.rot=x: unknown key; keys here are root, download"),
    ("data mnist dataset.root=nowhere dataset.download=false", "^dataset.root=nowhere: no readable MNIST files"),
    ("data arrays_vgg16", "^dataset.source.path=.missing.: has no default"),
    ("data arrays_vgg16 dataset.source.path=b.npz", "^dataset.source.path=b.npz: no such file"),
    (ARRAYS_VGG16 + " dataset.size=100", "^dataset.size=100: must be a multiple of 32"),
    (ARRAYS_VGG16 + " dataset.size=0", "^dataset.size=0: must be a multiple of 32"),
    (ARRAYS_VGG16 + " dataset.images=0", "^dataset.images=0: must be at least 1"),
    (ARRAYS_VGG16 + " dataset.weights=no.pth", "^dataset.weights=no.pth: no such file"),
    (ARRAYS_VGG16 + " dataset.weights=.", "^dataset.weights=.: no such file"),
    (ARRAYS_VGG16 + " dataset.root=a.npz", "^a.npz/vgg16/.*: cannot be written to"),
    (ARRAYS_VGG16 + " device=cuda:99", "^device=cuda:99: not available"),
    (ARRAYS_VGG16 + " threads=0", "^threads=0: must be at least 1"),
    ("data cifar10_vgg16 dataset.root=n dataset.source.download=false", "^dataset.root=n: .*dataset.source.download"),
    ("train dataset=arrays_vgg16 dataset.source.path=b.npz", "^dataset.source.path=b.npz: no such file"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "message"), LINES, ids=[line for line, _ in LINES])
def test_bad_lines(weights: Path, line: str, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    write_images()
    assert here(*shlex.split(line.format(weights=weights))) == 2
    out, err = capfd.readouterr()
    (told,) = err.splitlines()
    assert re.search(message, told.removeprefix("mfrun: "))
    assert out == ""


def test_a_folder_in_use(weights: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_images()
    assert here("data", "arrays_vgg16", *words(weights)) == 0
    (lock,) = Path("vgg16").glob("*/chunks.lock")
    lock.with_name("chunks.json").unlink()
    capfd.readouterr()
    with lock.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert here("data", "arrays_vgg16", *words(weights)) == 2
    assert "another process is computing these features" in capfd.readouterr().err
