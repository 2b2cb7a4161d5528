"""Every experiment's README names what there is: recipes, presets, sweeps, studies, programs and scripts."""

import re
from pathlib import Path

import pytest

from spineseg.cli import PROGRAMS
from spineseg.config import conf_dir

ROOT = Path(__file__).resolve().parent.parent / "experiments"
READMES = sorted(ROOT.glob("*/README.md"))
GROUPS = ("experiment", "preset", "sweep", "study")
CODE = re.compile(r"```[a-z]*\n(.*?)```|`([^`\n]+)`", re.DOTALL)


def commands(text: str) -> list[str]:
    """What stands in code blocks and between backticks, with continued lines joined."""
    found = [block or inline for block, inline in CODE.findall(text)]
    return [line for each in found for line in each.replace("\\\n", " ").splitlines()]


def missing(text: str) -> list[str]:
    """Names in a README's commands that lead nowhere."""
    wrong = []
    for line in commands(text):
        for group, names in re.findall(rf"\+({'|'.join(GROUPS)})=([\w,-]+)", line):
            there = {path.stem for path in (conf_dir() / group).glob("*.yaml")}
            wrong += [f"+{group}={name}" for name in names.split(",") if name not in there]
        wrong += [f"spineseg.{name}" for name in re.findall(r"-m spineseg\.(\w+)", line) if not is_program(name)]
        wrong += [
            f"conf/{path}" for path in re.findall(r"\bconf/([\w/]+\.yaml)", line) if not (conf_dir() / path).is_file()
        ]
        scripts = re.findall(r"\bexperiments/([\w/]+)", line)
        wrong += [
            f"experiments/{path}"
            for path in scripts
            if not any((ROOT / f"{path}{end}").exists() for end in ("", ".py"))
        ]
    return wrong


def is_program(name: str) -> bool:
    package = Path(conf_dir().parent) / "spineseg"
    return name in PROGRAMS or (package / f"{name}.py").is_file() or (package / name).is_dir()


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.parent.name)
def test_commands_of_a_readme_lead_somewhere(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# ")
    assert missing(text) == []


def test_every_folder_with_a_script_has_a_readme() -> None:
    folders = sorted({path.parent for path in ROOT.glob("*/run.py")})
    assert [path.name for path in folders if not (path / "README.md").is_file()] == []


def test_what_is_misspelt_is_found() -> None:
    text = "`python -m spineseg.trian +experiment=yolo_cis +preset=quick` then `experiments/none/run.py`"
    assert missing(text) == ["+experiment=yolo_cis", "spineseg.trian", "experiments/none/run"]
