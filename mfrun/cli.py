"""The command line: sub-commands, help and error messages. What they do is elsewhere, imported when it is needed."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

Command = Callable[[list[str]], int]

# The process is the program's own: no library's threads beside those that torch is told to have.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

HELP = """\
mfrun: train networks of any width n, and of n = infinity, in the mean field scaling of arXiv 1902.02880,
and see how their learning curves reach the limit.

  mfrun train  [KEY=VALUE ...]   train one network
  mfrun sweep  [KEY=VALUE ...]   train one for each of widths=[...], and for each value of any KEY=A,B,...
  mfrun plot   RUN_OR_SWEEP ...  overlay the learning curves
  mfrun compare RUN_OR_SWEEP ... gap to the limit for each width, its rate in n, and how long it stays small
  mfrun statics RUN              sub-networks drawn from a trained network against the whole (Appendix B)
  mfrun check  [KEY=VALUE ...]   coordinate check: which layers' sizes and changes in a step depend on n
  mfrun predict [KEY=VALUE ...]  the law of every finite width from the limit alone: gap c/n, deviation s/sqrt(n)
  mfrun ensemble SWEEP           what averaging the outputs of k networks wins back of a finite width's loss
  mfrun report RUN_OR_SWEEP      one HTML file: interactive curves, the comparison in words, settings, commands
  mfrun export RUN_OR_SWEEP      the metrics as one tidy table, CSV or Parquet
  mfrun status DIR               how the runs below DIR stand
  mfrun data DATASET             fetch and verify a data set; compute VGG16 features
  mfrun completion SHELL         completion code for bash, zsh or fish
  mfrun COMMAND --help           keys or options of a command
  mfrun --version                the version

For example:

  mfrun train dataset=mnist depth=4 width=400 steps=10000
  mfrun sweep dataset=gaussians depth=5 'widths=[50,100,200,400,inf]' init.tau2=0.1,3
  mfrun plot --latest
  mfrun train dir=outputs/mnist/2026-01-31_12-00-00 resume=true

Exit codes: 0 done, 1 a run or check failed, 2 bad input, 3 the run (or every run of a sweep) diverged, 130 and 143
stopped by Ctrl-C and SIGTERM.
Add --debug to any command for the full traceback of an error."""


def main(argv: list[str] | None = None) -> None:
    """Run one command and exit with its code."""
    # Imports make many objects and no garbage: to look for it less often saves a tenth of the start.
    gc.set_threshold(100_000, 20, 20)
    try:
        try:
            code = run(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()
    except OSError as error:
        # What is left to print has no place to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
        # The reader of a pipe has gone (mfrun ... | head); that is no error of ours, and there is nobody to tell.
        if not isinstance(error, BrokenPipeError):
            from mfrun.errors import of_the_system

            print(f"mfrun: {of_the_system(error, trains=False)}", file=sys.stderr)
            code = 1
    sys.exit(code)


def run(argv: list[str]) -> int:
    """Run one command.

    Returns:
        Its exit code; what went wrong has been said, in one line or with ``--debug`` as a traceback.
    """
    debug = "--debug" in argv
    argv = [a for a in argv if a != "--debug"]
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0
    if argv[0] in ("-V", "--version", "version"):
        from mfrun import __version__

        print(__version__)
        return 0
    command = COMMANDS.get(argv[0])
    if command is None:
        import difflib

        close = difflib.get_close_matches(argv[0], list(COMMANDS), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        print(f"mfrun: {argv[0]}: unknown command; one of {', '.join(VISIBLE)}{hint}", file=sys.stderr)
        return 2
    from mfrun.errors import Interrupted, UserError, of_the_system, unforeseen

    try:
        return command(argv[1:])
    except UserError as error:
        _tell(f"{_place(error, argv)}{error}", debug)
        return 2
    except Interrupted as error:
        print(f"mfrun: stopped; the state is saved; {error.again or 'resume=true'} goes on from it", file=sys.stderr)
        return 128 + error.signal_number
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        raise
    except OSError as error:
        _tell(f"{of_the_system(error, trains=argv[0] in TRAINING)} (--debug shows where)", debug)
        return 1
    except Exception as error:
        _tell(f"{unforeseen(error, trains=argv[0] in TRAINING)} (--debug shows where)", debug)
        return 1


def _tell(line: str, debug: bool) -> None:
    """Say what went wrong, in one line or as the traceback of the error in hand."""
    if debug:
        import traceback

        traceback.print_exc()
    else:
        print(f"mfrun: {line}", file=sys.stderr)


def _command(target: str, options: str | None = None) -> Command:
    """The function ``module:function``, whose module is imported when it is called.

    Args:
        target: takes the words of the command line, or what the options have made of them.
        options: the command's own, a function of :mod:`mfrun.shell.options`.
    """

    def call(argv: list[str]) -> int:
        given: Any = argv
        if options is not None:
            given = getattr(importlib.import_module("mfrun.shell.options"), options)().parse_args(argv)
        module, _, function = target.partition(":")
        code: int = getattr(importlib.import_module(module), function)(given)
        return code

    return call


def _place(error: Exception, argv: list[str]) -> str:
    """``FILE: `` where a file of the user's own is to blame, else nothing."""
    if not any(word.split("=")[0] in ("--config-dir", "-cd") for word in argv):
        return ""
    from mfrun.shell.origin import own_file

    file = own_file(error, argv[1:])
    return f"{file}: " if file else ""


def _check(argv: list[str]) -> int:
    """The check, whose help does without the torch that it imports."""
    if "-h" in argv or "--help" in argv:
        from mfrun.shell import hydra

        hydra.only_prints("check", argv)
        return 0
    return _command("mfrun.study.coordinate_check:main")(argv)


def _complete(argv: list[str]) -> int:
    from mfrun.shell import completion

    return completion.complete(argv, COMMANDS)


# The commands whose states are on disk when they are cut short.
TRAINING = ("train", "sweep", "predict")
COMMANDS: dict[str, Command] = {
    "train": _command("mfrun.sweeps.launch:train"),
    "sweep": _command("mfrun.sweeps.launch:sweep"),
    "plot": _command("mfrun.study.plot:main", "plot"),
    "compare": _command("mfrun.study.compare:main", "compare"),
    "statics": _command("mfrun.study.statics:main", "statics"),
    "check": _check,
    "predict": _command("mfrun.predict:main"),
    "ensemble": _command("mfrun.study.ensemble:main", "ensemble"),
    "report": _command("mfrun.study.report:main", "report"),
    "export": _command("mfrun.export:main", "export"),
    "status": _command("mfrun.runs.status:main", "status"),
    "data": _command("mfrun.study.data:main"),
    "completion": _command("mfrun.shell.completion:main"),
    "_complete": _complete,
}
VISIBLE = [name for name in COMMANDS if not name.startswith("_")]
