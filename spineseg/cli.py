"""The console script: `spineseg <program> key=value …` is `python -m spineseg.<program> key=value …`."""

import importlib.util
import runpy
import sys

from spineseg import __version__

# In the order in which a study uses them.
PROGRAMS = {
    "simulate": "make simulated scans in the real file layout of a data set",
    "prepare": "audit a data set, split it by subject and store it for training",
    "train": "train a model, then predict and score the held-out split",
    "predict": "segment scans with a trained model",
    "evaluate": "score a folder of predictions from any tool",
    "report": "tables, figures and a page of scored runs or a study",
    "study": "run many trainings that answer one question, and go on after a crash",
}


def main() -> None:
    """Run the program that the command line names, as `python -m` would.

    The module is run as `__main__` under its own name, because the children of distributed training and of sweeps
    repeat `python -m <that name> <arguments>`.
    """
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return
    if arguments[0] in ("-V", "--version"):
        print(f"spineseg {__version__}")
        return
    name = arguments[0]
    if name not in available():
        from difflib import get_close_matches

        close = get_close_matches(name, available(), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(available())}"
        sys.exit(f"error: {name}: no such program; {hint}")
    module = f"spineseg.{name}"
    sys.argv = [module, *arguments[1:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def available() -> list[str]:
    """Return the programs that this version has."""
    return [name for name in PROGRAMS if importlib.util.find_spec(f"spineseg.{name}") is not None]


def _usage() -> str:
    lines = ["usage: spineseg <program> [key=value …]", "", "programs:"]
    lines += [f"  {name:<10} {PROGRAMS[name]}" for name in available()]
    lines += ["", "`spineseg <program> --help` prints the keys of a program and their values."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
