"""A reporting checklist filled from what the runs recorded; what they did not record is left open, and says so."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from string import Formatter
from typing import Any, Final

from spineseg import __version__
from spineseg.metrics import PROTOCOL
from spineseg.reporting.checklist_facts import rerun_facts, simulated_scans, uncertainty
from spineseg.reporting.checklist_items import CLAIM, METRICS_RELOADED, Item
from spineseg.reporting.markdown import WATERMARK, escape
from spineseg.reporting.runs import Report, ScoredRun
from spineseg.reporting.settings import settings
from spineseg.reporting.standing import overfit_of

OPEN: Final = "not answered here"
Facts = dict[str, str]
# Tables and figures among the places of an answer.
_WRITTEN: Final = re.compile(r"(tables|figures)/([\w*]+)")


@dataclass(frozen=True)
class Answer:
    """An item with its answer and where it lies; None = open."""

    item: Item
    text: str | None
    where: str = ""


def checklist(report: Report) -> str:
    """The checklist of a report as a Markdown page."""
    facts = facts_of(report)
    lists = (("CLAIM 2024", CLAIM), ("Metrics Reloaded", METRICS_RELOADED))
    lines = [f"# Reporting checklist: {escape(report.title)}", ""]
    if report.simulated:
        lines += [WATERMARK, ""]
    if overfit := overfit_of(report.runs):
        lines += [f"**{escape(overfit)}.**", ""]
    lines += [
        "Filled from the runs' records. Numbers are those of CLAIM's 2024 update (Tejani et al., Radiology: Artificial "
        "Intelligence 2024), the second list follows Metrics Reloaded (Maier-Hein et al., Nature Methods 2024); the "
        "words are ours. An item that the records cannot answer is left open: the author has to.",
    ]
    for name, items in lists:
        answers = answered(items, facts, report)
        done = sum(answer.text is not None for answer in answers)
        lines += ["", f"## {name}: {done} of {len(answers)} items answered", ""]
        lines += ["| No. | Item | Answer | Where |", "|---|---|---|---|"]
        lines += [_line(answer) for answer in answers]
    return "\n".join(lines) + "\n"


def answered(items: Iterable[Item], facts: Mapping[str, str], report: Report | None = None) -> list[Answer]:
    """Fill the items' answers; one that needs a fact which nobody recorded stays open.

    Args:
        items: of a list.
        facts: by name.
        report: an item that names a table or a figure which this report does not hold stays open, too; None = no check.

    >>> item = Item("9", "Preprocessing", "{preprocessing}", "config.yaml")
    >>> answered([item], {})[0].text is None, answered([item], {"preprocessing": "1.5 mm"})[0].text
    (True, '1.5 mm')
    """
    answers = []
    for item in items:
        text, where = _filled(item.answer, facts), _filled(item.where, facts)
        held = where is not None and (report is None or _holds(report, where))
        answers.append(Answer(item, text, where or "") if held else Answer(item, None))
    return answers


def _holds(report: Report, where: str) -> bool:
    """Whether a report has all tables and figures that an answer points to; ``*`` stands for any end of a name."""
    there = {"tables": report.tables, "figures": report.figures}
    return all(any(fnmatchcase(held, name) for held in there[folder]) for folder, name in _WRITTEN.findall(where))


def facts_of(report: Report) -> Facts:
    """What the records say; a fact that no run recorded is left out."""
    runs = report.runs
    if not runs:
        return {"version": __version__, "protocol": PROTOCOL}
    trained = [run for run in runs if run.root is not None]
    people = {str(subject) for run in runs for subject in run.summary["subjects"]}
    cases = {str(case) for run in runs for case in run.metrics["case"].unique()}
    seeds = sorted({run.seed for run in trained if run.seed is not None})
    folds = sorted({run.fold for run in trained if run.fold is not None})
    found: dict[str, str | None] = {
        "version": __version__,
        "protocol": PROTOCOL,
        "edge": str(runs[0].summary["edge"]),
        "split": runs[0].split or None,
        "subjects": str(len(people)),
        "cases": str(len(cases)),
        "sources": _joined({str(source) for run in runs for source in run.metrics["source"].unique()}),
        "data": simulated_scans(runs),
        "models": _joined(
            f"{run.recipe} ({_millions(run.cost['parameters'])})" for run in runs if "parameters" in run.cost
        ),
        "software": _of_all(trained, lambda run: _versions(run.provenance)),
        "commit": _of_all(trained, lambda run: (run.provenance.get("git") or {}).get("commit")),
        "hardware": _of_all(trained, lambda run: _hardware(run.provenance)),
        "precision": _of_all(trained, lambda run: run.provenance.get("precision")),
        "data_hash": _of_all(trained, lambda run: str(run.provenance.get("data_hash") or "")[:12]),
        "split_hash": _of_all(trained, lambda run: str(run.provenance.get("split_hash") or "")[:12]),
        "train_subjects": _of_all(trained, lambda run: str(len(run.provenance.get("train_subjects", ())) or "")),
        "exclusions": _of_all(trained, lambda run: run.provenance.get("exclusions")),
        "preprocessing": _of_all(trained, lambda run: _preprocessing(run.config)),
        "initialisation": _of_all(trained, lambda run: _initialisation(run.config)),
        "training": _of_all(trained, lambda run: _training(run.config)),
        "selection": _of_all(trained, lambda run: _selection(run.config)),
        "seeds": ", ".join(map(str, seeds)) or None,
        "reruns": rerun_facts(trained),
        "folds": ", ".join(map(str, folds)) or None,
        "threshold": _of_all(runs, lambda run: _threshold(run.summary.get("score_threshold"))),
        **uncertainty(report, len(people)),
        "failures": "the cases with the lowest Dice are drawn"
        if any("worst" in name for name in report.figures)
        else None,
        "compared": _joined({run.recipe for run in runs}) if len({run.recipe for run in runs}) > 1 else None,
    }
    return {name: value for name, value in found.items() if value}


def _line(answer: Answer) -> str:
    text = f"**{OPEN}**" if answer.text is None else escape(answer.text)
    where = "" if answer.text is None else escape(answer.where)
    return f"| {answer.item.number} | {escape(answer.item.what)} | {text} | {where} |"


def _filled(template: str | None, facts: Mapping[str, str]) -> str | None:
    if template is None:
        return None
    needed = {name for _, name, _, _ in Formatter().parse(template) if name}
    return template.format(**facts) if needed <= facts.keys() else None


def _of_all(runs: Iterable[ScoredRun], what: Callable[[ScoredRun], Any]) -> str | None:
    """What the runs say, each model's word once; None where none says anything."""
    said: dict[str, list[str]] = {}
    for run in runs:
        value = what(run)
        if value and run.recipe not in said.setdefault(str(value), []):
            said[str(value)].append(run.recipe)
    if len(said) < 2:
        return next(iter(said), None)
    return "; ".join(f"{', '.join(models)}: {value}" for value, models in said.items())


def _joined(texts: Iterable[str]) -> str | None:
    return ", ".join(dict.fromkeys(sorted(text for text in texts if text))) or None


def _millions(parameters: float) -> str:
    return f"{parameters / 1e6:.2f} million parameters"


def _versions(provenance: Mapping[str, Any]) -> str | None:
    versions = provenance.get("versions")
    if not versions:
        return None
    listed = ", ".join(f"{name} {versions[name]}" for name in ("torch", "lightning", "ultralytics") if name in versions)
    return f"spineseg {provenance.get('spineseg')}, Python {provenance.get('python')}, {listed}"


def _hardware(provenance: Mapping[str, Any]) -> str | None:
    hardware = provenance.get("hardware")
    if not hardware:
        return None
    accelerators = ", ".join(hardware.get("accelerators") or ()) or "no accelerator"
    return f"{hardware['processor']}, {hardware['cores']} cores, {accelerators}"


def _preprocessing(config: Mapping[str, Any]) -> str | None:
    data = config.get("data", {})
    keys = ("pixel_mm", "spacing_mm", "image_size", "patch_size", "window_hu", "context")
    return ", ".join(f"{key} {data[key]}" for key in keys if data.get(key) is not None) or None


def _initialisation(config: Mapping[str, Any]) -> str | None:
    if not config:
        return None
    if config.get("init_from"):
        return "weights of an earlier run (init_from)"
    weights = config.get("model", {}).get("weights")
    return f"pretrained weights ({str(weights).rpartition('/')[2]})" if weights else "random"


def _training(config: Mapping[str, Any]) -> str | None:
    keys = ("optim.optimizer", "optim.lr0", "optim.schedule", "trainer.max_epochs", "data.batch_size")
    flat = settings(config) if config else {}
    return ", ".join(f"{key.rpartition('.')[2]} {flat[key]}" for key in keys if flat.get(key) is not None) or None


def _selection(config: Mapping[str, Any]) -> str | None:
    checkpoints = config.get("callbacks", {}).get("checkpoints", {})
    return f"best {checkpoints['monitor']} on the validation split" if checkpoints.get("monitor") else None


def _threshold(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}, chosen on the validation split"
