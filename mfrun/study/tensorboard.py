"""``logger=tensorboard``: a run's metrics as TensorBoard's event files, and the learning curves as an image in them."""

from __future__ import annotations

import io
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mfrun.errors import ConfigError
from mfrun.registry import reason, register
from mfrun.runs.columns import KEYS
from mfrun.runs.loggers import Logger, Row
from mfrun.shell import options

# Runs on a GPU are threads, and pyplot is one for all of them.
_drawing = threading.Lock()


@register("logger", "tensorboard")
@dataclass
class TensorBoard(Logger):
    """Event files for TensorBoard: a scalar for each metric, and the learning curves as an image.

    They lie in the run's folder, so that a run is called there what it is called here; where there are several
    replicates, in a folder ``replicate=R`` for each. A run that goes on writes them anew from metrics.csv: no point is
    there twice, and none is lost that a crash or a full disk has kept from being written.

    Records are written at once, by this thread: tensorboard's own writer does so in a thread that takes the run with
    it where it fails.

    Attributes:
        figure: draw the learning curves at the end of a run, and those of all runs at the end of a sweep.
    """

    figure: bool = True

    def __post_init__(self) -> None:
        try:
            import tensorboard.compat.proto.event_pb2
            import tensorboard.summary.writer.record_writer  # noqa: F401
        except Exception as error:  # protobuf raises errors of its own where versions do not fit.
            why = f"needs a package that is not here; pip install 'mfrun[tensorboard]' ({reason(error)})"
            raise ConfigError("name", "tensorboard", why) from error

    def start(self, folder: Path, rows: Sequence[Row]) -> None:
        self._folder, self._files = folder, dict[int, _EventFile]()
        self._began = time.time() - max((row["wall_seconds"] for row in rows), default=0.0)
        self._last = 0
        self.log(rows)

    def log(self, rows: Sequence[Row]) -> None:
        several = any(row["replicate"] for row in rows)
        for row in rows:
            r, self._last = int(row["replicate"]), int(row["step"])
            if r not in self._files:
                self._files[r] = _EventFile(self._folder / f"replicate={r}" if several else self._folder)
            scalars = [{"tag": k, "simple_value": float(v)} for k, v in row.items() if k not in KEYS]
            self._files[r].add(scalars, self._last, self._began + row["wall_seconds"])
        for file in self._files.values():
            file.commit()

    def finish(self, folder: Path) -> None:
        if self.figure:
            image = _curves(folder)
            file = next((f for f in self._files.values() if f.folder == folder), None) or _EventFile(folder)
            self._files[-1] = file
            file.add([{"tag": "curves", "image": image}], self._last, time.time())
            file.commit()
        for file in self._files.values():
            file.close()

    def finish_sweep(self, folder: Path) -> None:
        self._files, self._last = {}, 0
        self.finish(folder)


class _EventFile:
    """A folder's events in a new file, which takes the place of those before it.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        if folder.is_symlink() and folder.name.startswith("replicate="):
            raise OSError(f"{folder} is a link, which may lead out of the run's folder")
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self._old = sorted(folder.glob("events.out.tfevents.*.mfrun"))
        # TensorBoard reads files in the order of their names.
        number = 1 + max((int(f.name.split(".")[3]) for f in self._old), default=0)
        self._stream: IO[bytes] = (folder / f"events.out.tfevents.{number:010d}.mfrun").open("xb")
        self._records = RecordWriter(self._stream)
        now = time.time()
        self._write(wall_time=now, file_version="brain.Event:2")
        # To a TensorBoard that watches: forget what the files before this one said.
        self._write(wall_time=now, step=0, session_log={"status": "START"})

    def add(self, values: list[dict[str, Any]], step: int, wall_time: float) -> None:
        """The scalars or images of one step, as Summary.Value messages."""
        self._write(wall_time=wall_time, step=step, summary={"value": values})

    def commit(self) -> None:
        """Hand everything to the operating system; the files before this one go."""
        self._stream.flush()
        for old in self._old:
            old.unlink(missing_ok=True)
        self._old = []

    def close(self) -> None:
        self._stream.close()

    def _write(self, **event: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(**event).SerializeToString())


def _curves(folder: Path) -> dict[str, Any]:
    """What ``mfrun plot`` draws, as a Summary.Image message."""
    from mfrun.study import plot

    with _drawing:
        figure, _ = plot.draw(options.plot().parse_args([str(folder)]))
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=200)
    width, height = struct.unpack(">II", png.getvalue()[16:24])  # They are in the first chunk of every PNG.
    return {"encoded_image_string": png.getvalue(), "width": width, "height": height, "colorspace": 4}
