"""A search: Optuna asks for parameters, jobs answer with values; several workers, one journal.

A trial counts once however often its worker is killed. Its job's name is kept with it as soon as it has parameters, so
that another worker finds the job, sees by its lease that nobody is at it, and goes on under the same number. A trial
without a job was killed while it was asked for: it is asked for again, or, if not all of its parameters were drawn,
closed, and does not count.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from spineseg.errors import ConfigError
from spineseg.studies.folder import Job, StudyFolder
from spineseg.studies.journal import open_journal

# Attributes of a trial: its job, and the failed trial that it stands for.
JOB, RETRY_OF = "job", "retry_of"


def distributions(space: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """What each parameter may be.

    Args:
        space: key of ``train`` → ``{low, high, log, step}`` or ``{choices}``; whole numbers where all of them are.

    Raises:
        ConfigError: naming the key.
    """
    if not space:
        raise ConfigError("search.space: expected key: {low, high} or key: {choices}, found none")
    return {str(name): _distribution(node, f"search.space.{name}") for name, node in space.items()}


def grid(space: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every combination, in the order of the file.

    Raises:
        ConfigError: a parameter without choices or steps.
    """
    values = {}
    for name, found in distributions(space).items():
        if isinstance(found, CategoricalDistribution):
            values[name] = list(found.choices)
        elif isinstance(found, IntDistribution) and not found.log:
            values[name] = list(range(found.low, found.high + 1, found.step))
        elif isinstance(found, FloatDistribution) and found.step is not None:
            count = round((found.high - found.low) / found.step) + 1
            values[name] = [min(found.high, found.low + index * found.step) for index in range(count)]
        else:
            raise ConfigError(f"search.space.{name}: a grid needs choices, or low, high and step")
    return [dict(zip(values, combination, strict=True)) for combination in product(*values.values())]


def override(name: str, value: Any) -> str:
    """A parameter as an override; a text stands as it is, so that a choice may be ``"[64, 64, 64]"``.

    >>> override("optim.lr0", 1e-05), override("model.weights", None)
    ('optim.lr0=1e-05', 'model.weights=null')
    """
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return f"{name}={text}"


class Trials:
    """The trials of a search.

    Args:
        folder: of the study.
        spec: the node ``search``.
    """

    def __init__(self, folder: StudyFolder, spec: Mapping[str, Any]) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._spec = spec
        self._distributions = distributions(spec["space"])
        self._grid = grid(spec["space"]) if spec["sampler"] == "grid" else None
        self._study = optuna.create_study(
            storage=open_journal(folder.journal),
            study_name="search",
            direction=spec["direction"],
            pruner=_pruner(spec),
            load_if_exists=True,
        )

    @property
    def total(self) -> int:
        """How many trials there are to be; a grid has no more than combinations."""
        asked = int(self._spec["trials"])
        return asked if self._grid is None else min(asked, len(self._grid))

    def all(self) -> list[FrozenTrial]:
        """Every trial that counts: none that was killed while it was asked for, no failed one that is tried again."""
        trials = self._study.get_trials(deepcopy=False)
        replaced = {trial.user_attrs[RETRY_OF] for trial in trials if RETRY_OF in trial.user_attrs}
        return [
            trial
            for trial in trials
            if trial.number not in replaced and not (trial.state == TrialState.FAIL and JOB not in trial.user_attrs)
        ]

    def done(self) -> int:
        """How many trials ended well: with a value, or early because they led nowhere."""
        return sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in self.all())

    def replaced_by(self, number: int) -> int | None:
        """Number of the failed trial that a trial stands for; None of a first try."""
        (found,) = (trial for trial in self._study.get_trials(deepcopy=False) if trial.number == number)
        return found.user_attrs.get(RETRY_OF)

    def open(self) -> list[tuple[int, str]]:
        """Number and job of the trials that have begun and not ended."""
        running = (trial for trial in self.all() if trial.state == TrialState.RUNNING and JOB in trial.user_attrs)
        return [(trial.number, trial.user_attrs[JOB]) for trial in running]

    def ask(self) -> optuna.Trial | None:
        """A new trial with its parameters; None if there are enough.

        One process at a time may ask, so that a trial without a job is known to be a dead worker's.
        """
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state == TrialState.RUNNING and JOB not in trial.user_attrs:
                if trial.params.keys() == self._distributions.keys():
                    return self.adopt(trial.number)
                self._study.tell(trial.number, state=TrialState.FAIL)
        trials = self.all()
        if not any(trial.state == TrialState.WAITING for trial in trials):
            if len(trials) >= self.total:
                return None
            if self._grid is not None:
                there = [trial.params for trial in trials]
                self._study.enqueue_trial(next(params for params in self._grid if params not in there))
        # Seeded by the trial's place: a search that was killed asks as one that was not, and no two workers alike.
        self._study.sampler = _sampler(self._spec, place=len(trials))
        return self._study.ask(self._distributions)

    def adopt(self, number: int) -> optuna.Trial:
        """The trial of a dead worker."""
        (found,) = (trial for trial in self._study.get_trials(deepcopy=False) if trial.number == number)
        return optuna.Trial(self._study, found._trial_id)

    def tell(self, number: int, job: Job) -> None:
        """What became of a trial's job; nothing where it goes on another time."""
        if job.state == "done":
            self._study.tell(number, job.value, skip_if_finished=True)
        elif job.state == "pruned":
            self._study.tell(number, state=TrialState.PRUNED, skip_if_finished=True)
        elif job.state == "failed":
            self._study.tell(number, state=TrialState.FAIL, skip_if_finished=True)

    def retry_failed(self) -> None:
        """Let failed trials be asked for again with the same parameters; these then count in their place."""
        for trial in self.all():
            if trial.state == TrialState.FAIL:
                self._study.enqueue_trial(trial.params, user_attrs={RETRY_OF: trial.number})

    def best(self) -> FrozenTrial | None:
        """The best finished trial."""
        done = [trial for trial in self.all() if trial.state == TrialState.COMPLETE and trial.value is not None]
        choose = max if self._spec["direction"] == "maximize" else min
        return choose(done, key=lambda trial: trial.value or 0.0) if done else None


def _distribution(node: Any, where: str) -> BaseDistribution:
    if not isinstance(node, Mapping):
        raise ConfigError(f"{where}: expected {{low, high}} or {{choices}}, found {node!r}")
    if "choices" in node:
        choices = node["choices"]
        scalars = isinstance(choices, Sequence) and not isinstance(choices, str)
        if not scalars or not choices or any(isinstance(choice, list | dict) for choice in choices) or len(node) > 1:
            raise ConfigError(
                f'{where}: expected choices: [numbers or texts], lists as texts: "[64, 64]"; found {node}'
            )
        return CategoricalDistribution(choices)
    unknown = set(node) - {"low", "high", "log", "step"}
    numbers = [node.get(name) for name in ("low", "high", "step") if node.get(name) is not None]
    if unknown or "low" not in node or "high" not in node or not all(isinstance(each, int | float) for each in numbers):
        raise ConfigError(f"{where}: expected numbers low and high, and maybe log or step; found {dict(node)}")
    whole = all(isinstance(each, int) for each in numbers)
    try:
        if whole:
            return IntDistribution(node["low"], node["high"], log=node.get("log", False), step=node.get("step") or 1)
        return FloatDistribution(node["low"], node["high"], log=node.get("log", False), step=node.get("step"))
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _sampler(spec: Mapping[str, Any], place: int) -> optuna.samplers.BaseSampler:
    seed = int(spec["seed"]) * 1_000_003 + place
    if spec["sampler"] == "tpe":
        # Trials at work count as bad ones, so that two workers do not try the same corner.
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    return optuna.samplers.RandomSampler(seed=seed)  # of a grid: combinations are given, nothing is drawn


def _pruner(spec: Mapping[str, Any]) -> optuna.pruners.BasePruner:
    warmup = int(spec["warmup_epochs"])
    if spec["pruner"] == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=warmup)
    if spec["pruner"] == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=max(1, warmup))
    return optuna.pruners.NopPruner()
