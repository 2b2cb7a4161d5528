"""Splits: who is in training, validation and test, by a rule that gives the same answer everywhere.

Fold of a subject: SHA-256 of ``source:subject:split_seed``; either the rank of that hash among all subjects modulo 5
(``rank``: even folds for few subjects) or the hash itself modulo 5 (``hash``: a subject's fold never depends on who
else is there). Fold f: test = fold f, validation = fold f + 1, training = the rest.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Final, Literal

from spineseg.data.cases import Case
from spineseg.data.files import read_json, sha256_of_text, write_json
from spineseg.errors import ConfigError, DataError

SPLITS_FORMAT: Final = "splits 1"
SplitRule = Literal["rank", "hash"]
PREPARE: Final = "python -m spineseg.prepare"


@dataclass(frozen=True)
class Split:
    """Case ids for training, validation and test; ``overfit`` names the case that stands in two of them on purpose."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    overfit: str | None = None


@dataclass(frozen=True)
class Splits:
    """The fold of every labelled case; ``folds`` and ``subjects`` are keyed by case id."""

    rule: SplitRule
    seed: int
    count: int
    folds: Mapping[str, int]
    subjects: Mapping[str, str]
    simulated: bool = False

    def fold(self, fold: int) -> Split:
        """Test = ``fold``, validation = the next one, training = the rest; ids in the order of ``cases.csv``.

        Raises:
            ConfigError: no such fold.
            DataError: so few subjects that training or validation is empty.
        """
        if not 0 <= fold < self.count:
            raise ConfigError(f"data.fold={fold}: expected 0 to {self.count - 1}")
        validation = (fold + 1) % self.count
        chosen: dict[str, list[str]] = {"train": [], "val": [], "test": []}
        for case, number in self.folds.items():
            chosen["test" if number == fold else "val" if number == validation else "train"].append(case)
        for name, cases in chosen.items():
            if not cases and name != "test":
                raise DataError(
                    f"fold {fold} has no {name} case: {len(set(self.subjects.values()))} subjects over {self.count} "
                    "folds are too few; add cases, choose another data.fold, give data.split_file=, "
                    "or set data.overfit=<case>"
                )
        return Split(tuple(chosen["train"]), tuple(chosen["val"]), tuple(chosen["test"]))


def subject_folds(
    subjects: Iterable[str], *, source: str, rule: SplitRule, seed: int, folds: int = 5
) -> dict[str, int]:
    """Fold of each subject by the hash rule (module docstring).

    >>> subject_folds(["a", "b", "c"], source="folder", rule="rank", seed=0)
    {'b': 0, 'a': 1, 'c': 2}
    """
    hashes = {subject: int(sha256_of_text(f"{source}:{subject}:{seed}"), 16) for subject in subjects}
    if rule == "rank":
        return {subject: position % folds for position, subject in enumerate(sorted(hashes, key=hashes.__getitem__))}
    return {subject: value % folds for subject, value in hashes.items()}


def make_splits(
    cases: Sequence[Case],
    *,
    rule: SplitRule,
    seed: int,
    folds: int = 5,
    subjects: Iterable[str] | None = None,
    simulated: bool = False,
) -> Splits:
    """Give every labelled case its subject's fold.

    Args:
        cases: audited cases of one source; unlabelled ones take no part.
        rule: ``rank`` or ``hash``.
        seed: ``data.split_seed``.
        folds: how many.
        subjects: all subjects of the data set, so that ranks do not move when a case is excluded.
        simulated: whether the cases are.
    """
    labelled = [case for case in cases if case.label is not None]
    if not labelled:
        raise DataError("no case has a mask, so there is nothing to split; see the findings in cases.csv")
    source = labelled[0].source
    everyone = set(subjects or ()) | {case.subject for case in labelled}
    by_subject = subject_folds(everyone, source=source, rule=rule, seed=seed, folds=folds)
    return Splits(
        rule=rule,
        seed=seed,
        count=folds,
        folds={case.id: by_subject[case.subject] for case in labelled},
        subjects={case.id: case.subject for case in labelled},
        simulated=simulated,
    )


def overfit_split(case_id: str, cases: Sequence[Case]) -> Split:
    """One case in training and validation; test = the other labelled cases."""
    labelled = [case.id for case in cases if case.label is not None]
    _known("data.overfit", [case_id], labelled)
    return Split((case_id,), (case_id,), tuple(case for case in labelled if case != case_id), overfit=case_id)


def fewer_subjects(split: Split, count: int, cases: Sequence[Case], seed: int) -> Split:
    """The split with its first ``count`` training subjects by the hash rule: fewer are always among more.

    Raises:
        ConfigError: more than there are, or none.
    """
    by_id = {case.id: case for case in cases}
    ranked = sorted(
        {(by_id[name].source, by_id[name].subject) for name in split.train},
        key=lambda one: sha256_of_text(f"{one[0]}:{one[1]}:{seed}"),
    )
    if not 1 <= count <= len(ranked):
        raise ConfigError(f"data.train_subjects={count}: expected 1 to {len(ranked)}, or null for all")
    kept = set(ranked[:count])
    train = tuple(name for name in split.train if (by_id[name].source, by_id[name].subject) in kept)
    return replace(split, train=train)


def check_leakage(split: Split, cases: Sequence[Case]) -> None:
    """Refuse a split that shows one subject or one image to two of its parts.

    Raises:
        DataError: naming the cases; an ``overfit`` split may share its one case between training and validation.
    """
    by_id = {case.id: case for case in cases}
    seen: dict[tuple[str, str], tuple[str, str]] = {}
    problems: list[str] = []
    for part, ids in (("train", split.train), ("val", split.val), ("test", split.test)):
        _known(f"split, {part}", ids, list(by_id))
        for case_id in ids:
            if case_id == split.overfit and part == "val":
                continue
            case = by_id[case_id]
            for kind, value in (("subject", case.subject), ("image content", case.image_sha256)):
                other, other_part = seen.setdefault((kind, value), (case_id, part))
                if other_part != part and not (split.overfit and kind == "subject" and other == split.overfit):
                    problems.append(f"{other} ({other_part}) and {case_id} ({part}) have the same {kind}")
    if problems:
        raise DataError(
            "the split leaks: " + "; ".join(problems) + ". Put them in one part, or exclude one (data.source.exclude)."
        )


def write_splits(path: Path, splits: Splits) -> None:
    """Write ``splits.json`` atomically."""
    write_json(
        path,
        {
            "format": SPLITS_FORMAT,
            "simulated": splits.simulated,
            "rule": splits.rule,
            "split_seed": splits.seed,
            "fold_count": splits.count,
            "folds": dict(splits.folds),
            "subjects": dict(splits.subjects),
        },
    )


def read_splits(path: Path) -> Splits:
    """Read ``splits.json``."""
    content = read_json(path, SPLITS_FORMAT, PREPARE)
    try:
        return Splits(
            rule=content["rule"],
            seed=int(content["split_seed"]),
            count=int(content["fold_count"]),
            folds={str(case): int(fold) for case, fold in content["folds"].items()},
            subjects={str(case): str(subject) for case, subject in content["subjects"].items()},
            simulated=bool(content["simulated"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: a damaged entry ({error!r}); `{PREPARE}` writes it") from error


def read_split_file(path: Path, cases: Sequence[Case], excluded: Iterable[str] = ()) -> Split:
    """Read ``data.split_file``: a JSON object with the case ids of ``train``, ``val`` and (optional) ``test``.

    Args:
        path: the file.
        cases: the prepared cases.
        excluded: ids that an exclusion file leaves out of the set; they leave the split, too.
    """
    out = frozenset(excluded)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        train, val, test = (
            tuple(case for case in map(str, content.get(part, ())) if case not in out)
            for part in ("train", "val", "test")
        )
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(
            f'{path}: cannot be read as a split ({error}); expected {{"train": [ids], "val": [ids], "test": [ids]}}'
        ) from error
    split = Split(train, val, test)
    if not train or not val:
        raise DataError(f"{path}: expected at least one case in train and one in val, found {content}")
    for part, ids in (("train", split.train), ("val", split.val), ("test", split.test)):
        _known(f"{path}, {part}", ids, [case.id for case in cases])
    check_leakage(split, cases)
    return split


def _known(where: str, ids: Iterable[str], known: Sequence[str]) -> None:
    unknown = sorted(set(ids) - set(known))
    if unknown:
        nearest = get_close_matches(unknown[0], known, n=1, cutoff=0.0)
        raise DataError(
            f"{where}: unknown case {', '.join(unknown[:10])}; nearest: {nearest[0] if nearest else 'none'}. "
            f"The {len(known)} cases are listed in cases.csv."
        )
