"""Items of the reporting checklists: what is asked, how the records answer it, and where the answer lies.

``{names}`` are facts of ``checklist.facts_of``; an item without an answer is always the author's. Tables and figures
in ``where`` have to be in the report, else the item stays open.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Item:
    """One item; ``answer`` and ``where`` are templates over the facts; no answer where records cannot know."""

    number: str
    what: str
    answer: str | None
    where: str = ""


_PROTOCOL: Final = "the protocol's text"

CLAIM: Final = (
    Item("1", "Title or abstract names the kind of artificial intelligence", None),
    Item("2", "Structured abstract", None),
    Item("3", "Background, intended use and role of the method", None),
    Item("4", "Aims and hypotheses", None),
    Item("5", "Prospective or retrospective", None),
    Item("6", "Goal of the study", "Comparison of {compared} on the same cases", "report.md"),
    Item("7", "Sources of the data", "{sources}", "cases.csv, audit.json of the prepared data"),
    Item("8", "Inclusion and exclusion criteria", "{exclusions}", "source.json of the prepared data"),
    Item("9", "Preprocessing", "{preprocessing}", "config.yaml of the runs"),
    Item("10", "Selection of subsets of the data", "{split} split", "splits.json"),
    Item("11", "De-identification", "{data}", "SIMULATED.json"),
    Item("12", "Handling of missing data", "A case without a prediction stops the evaluation", _PROTOCOL),
    Item("13", "Image acquisition", None),
    Item("14", "Definition of the reference standard", None),
    Item("15", "Why this reference standard", None),
    Item("16", "Who made the reference annotations", None),
    Item("17", "How test cases were annotated", None),
    Item("18", "Variability within and between annotators", None),
    Item(
        "19",
        "How cases were assigned to partitions",
        "By subject, folds {folds}; hash of the split {split_hash}",
        "splits.json",
    ),
    Item(
        "20",
        "Level at which partitions are disjoint",
        "Subject, checked at each load; subjects in training: {train_subjects}",
        "splits.json",
    ),
    Item(
        "21",
        "Intended sample size",
        "{subjects} test subjects, {cases} scans; least detectable effects are printed",
        "tables/comparisons.md",
    ),
    Item("22", "Description of the models", "{models}", "config.yaml of the runs"),
    Item("23", "Software", "{software}; commit {commit}", "provenance.json"),
    Item("24", "Initial values of the parameters", "{initialisation}; seeds {seeds}", "config.yaml of the runs"),
    Item("25", "Training", "{training}; precision {precision}; on {hardware}", "config.yaml, log.csv of the runs"),
    Item("26", "Selection of the final model", "{selection}", "config.yaml of the runs"),
    Item("27", "Ensembling", None),
    Item("28", "Measures of performance", "Protocol {protocol}", _PROTOCOL),
    Item("29", "Significance and uncertainty", "{uncertainty}", "{tests}"),
    Item("30", "Robustness or sensitivity", "{reruns}", "tables/variation.md"),
    Item("31", "Explainability", None),
    Item("32", "Evaluation on internal data", "{split} split of {sources}", "tables/headline.md"),
    Item("33", "Testing on external data", None),
    Item("34", "Registration of a clinical trial", None),
    Item(
        "35",
        "Numbers of included and excluded cases",
        "{cases} scans of {subjects} subjects scored; {exclusions}",
        "cases.csv",
    ),
    Item("36", "Demographic and clinical characteristics", None),
    Item("37", "Performance and its uncertainty", "{uncertainty}", "tables/headline.md"),
    Item("38", "Diagnostic performance and its precision", None),
    Item(
        "39", "Analysis of failures", "{failures}; errors are split exactly", "tables/errors.md, figures/worst_case_*"
    ),
    Item("40", "Limitations", None),
    Item("41", "Implications for practice", None),
    Item(
        "42",
        "Full protocol and technical details",
        "Protocol {protocol}; configuration of each run",
        "config.yaml of the runs",
    ),
    Item("43", "Availability of software, models and data", None),
    Item("44", "Funding", None),
)

METRICS_RELOADED: Final = (
    Item(
        "1",
        "Problem category",
        "Instance segmentation of named classes in volumes; in slices also object detection",
        _PROTOCOL,
    ),
    Item(
        "2",
        "What matters: overlap, boundary, centre, name",
        "Dice, NSD and HD95, centroid error, identification: each apart",
        "tables/headline.md",
    ),
    Item("3", "Structures cut by the field of view", "edge = {edge}", _PROTOCOL),
    Item("4", "Small structures", "Instances below 50 mm² in a slice are ignored; NSD at 2 mm", _PROTOCOL),
    Item(
        "5",
        "Imbalance of classes",
        "Means over the levels of a case, then over subjects; regions and levels beside",
        "tables/dice_means.md",
    ),
    Item("6", "Quality of the reference", None),
    Item("7", "Overlap measure", "Dice, a missed level counts 0", "tables/headline.md"),
    Item("8", "Boundary measure", "NSD 2 mm; HD95 over found levels with their share", "tables/headline.md"),
    Item(
        "9",
        "Detection: criterion of localisation",
        "IoU of masks 0.5, and 0.50:0.05:0.95; of boxes beside",
        "tables/detection.md",
    ),
    Item("10", "Detection: assignment", "Greedy by score inside a class; volumes: Hungarian by Dice", _PROTOCOL),
    Item("11", "Threshold of scores", "{threshold}", "tables/detection.md"),
    Item("12", "Measure over all thresholds", "AP; with all scores 1 beside it", "tables/detection.md"),
    Item("13", "Calibration of scores", None),
    Item("14", "Empty cells and missing predictions", "Written rule for each metric; no penalty in mm", _PROTOCOL),
    Item(
        "15",
        "Aggregation",
        "Slices, levels, scans and seeds are averaged inside the subject: n = {subjects}",
        "tables/subjects_dice_spine.md",
    ),
    Item("16", "Variability", "{uncertainty}", "tables/variation.md"),
    Item("17", "All values, not means alone", "Every subject and level", "metrics.csv, figures/paired_differences"),
    Item("18", "Ranking", "Dice and identification are primary; all else is secondary", "tables/comparisons.md"),
    Item("19", "Implementation", "spineseg {version}, protocol {protocol}", "metrics.csv"),
)
