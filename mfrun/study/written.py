"""Where the commands that read runs leave their tables and their figure, once what they say has been said."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from mfrun.errors import UserError
from mfrun.study import style


def write(out: Path, tables: dict[str, pd.DataFrame], figure: Figure, form: str) -> None:
    """Write tables and a figure, which is named like the first of them, and print where they are.

    Args:
        out: the folder, made where it is missing.
        tables: by name.
        figure: the figure.
        form: its format.

    Raises:
        UserError: the folder cannot be written.
    """
    files = [out / f"{name}.csv" for name in tables]
    picture = files[0].with_suffix(f".{form}")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file, table in zip(files, tables.values(), strict=True):
            table.to_csv(file, index=False)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror})") from error
    style.save(figure, picture)
    print("\n" + "\n".join(map(str, [*files, picture])))
