"""Item response models and knowledge tracing fitted to the answers of a file: `proxima fit`.

What an analyst wants to see of the models themselves, with no database: parameters, how sure they are, and which of
them are not to be relied on. Calibrated items can be carried into a course as a catalogue.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.adaptive import bkt
from app.adaptive.ability import estimate
from app.adaptive.irt import Answers, Bank, Calibration, Model, Priors, calibrate
from app.adaptive.irt.bank import ASYMPTOTIC, BINARY, COMMON_SLOPE
from app.adaptive.replay import Log
from app.adaptive.types import Booleans, Floats, Integers
from app.errors import InvalidFile
from app.evaluation import SPLIT, Progress, Sample, columned, read_sample

# The names under which the engine takes calibrated items; it has no partial credit.
IN_CATALOGUES: dict[Model, str] = {"rasch": "1PL", "2pl": "2PL", "3pl": "3PL", "4pl": "4PL", "graded": "graded"}
STEPS = {"graded": "thresholds", "gpcm": "steps", "pcm": "steps"}
MOST_CATEGORIES = 10
# Half of the second decimal and a little: fractions with denominators below 10 are more than twice as far apart.
ROUNDED = 0.006
SEED = 1
DIGITS = 6


@dataclass(frozen=True)
class File:
    """The answers of a file, with the ids of its items (I,) and skills (S,) in the order of their numbers."""

    sample: Sample
    items: tuple[str, ...]
    skills: tuple[str, ...]


@dataclass(frozen=True)
class ItemFit:
    """A bank calibrated to the first answer of every learner to every item; `repeated` others were left out.

    `reliability` is the share of the variance of ability that its estimates show: Var(EAP) / (Var(EAP) + mean SE²).
    """

    file: File
    answers: Answers
    repeated: int
    calibration: Calibration
    reliability: float


@dataclass(frozen=True)
class SkillFit:
    """Knowledge tracing fitted to all answers; `learners` and `answers` are counts for each skill (S,)."""

    file: File
    fitted: bkt.Fit
    setup: bkt.Setup
    learners: Integers
    answers: Integers

    @property
    def converged(self) -> Booleans:
        """(S,): whether the search ended because nothing was left to gain."""
        return self.fitted.iterations < self.setup.iterations


def fit_items(path: Path, model: Model, priors: Priors, categories: int | None, progress: Progress) -> ItemFit:
    """Calibrate the items of a file. Raises `InvalidFile` for scores that the model does not take.

    `categories` is how many every item has; None finds out, item by item.
    """
    file = read_file(path, progress)
    log = file.sample.log
    grades = highest_categories(file, model, categories)
    first = first_answers(log, len(file.items))
    items = log.items[first]
    reached = np.round(log.scores[first] * grades[items]).astype(np.int64)
    answers = Answers(np.searchsorted(first, log.starts), items, reached)
    progress("calibrating", 0, 1)
    found = calibrate(answers, grades, model, priors)
    progress("estimating abilities", 0, 1)
    return ItemFit(file, answers, len(log.items) - len(first), found, reliability(found, answers))


def fit_skills(path: Path, setup: bkt.Setup, progress: Progress) -> SkillFit:
    """Fit knowledge tracing to the skills of a file. Raises `InvalidFile` if it names none."""
    file = read_file(path, progress)
    if not file.skills:
        raise InvalidFile(f"{path.name} names no skill; knowledge tracing is about skills.")
    progress("tracing", 0, 1)
    fitted = bkt.fit(file.sample.skills, file.sample.log, setup, np.random.default_rng(SEED))
    chains = bkt.link(file.sample.skills, file.sample.log)
    learners = np.bincount(chains.skill, minlength=len(file.skills))
    answers = np.bincount(chains.skill, chains.lengths, len(file.skills)).astype(np.int64)
    return SkillFit(file, fitted, setup, learners, answers)


# The file


def read_file(path: Path, progress: Progress) -> File:
    """The answers of a file and the names in it."""
    sample = read_sample(path, SPLIT, progress)
    return File(sample, sample.items, sample.skill_ids)


def first_answers(log: Log, items: int) -> Integers:
    """The places in the log of the first answer of each learner to each item, ascending."""
    learner = np.repeat(np.arange(log.learners), np.diff(log.starts))
    return np.sort(np.unique(learner * items + log.items, return_index=True)[1])


def highest_categories(file: File, model: Model, categories: int | None) -> Integers:
    """The highest category of every item, (I,), from all its scores, those of repeated answers as well.

    It is the least number below 10 of which all scores are whole parts, rounded to two decimals or better; for models
    of right and wrong it is 1. A category between that nobody reached so remains one.
    """
    items, scores = file.sample.log.items, file.sample.log.scores
    binary = model in BINARY
    choices = [1] if binary else range(1, MOST_CATEGORIES) if categories is None else [categories - 1]
    grades = np.zeros(len(file.items), dtype=np.int64)
    for grade in choices:
        off = np.abs(np.round(scores * grade) / grade - scores) > (0 if binary else ROUNDED)
        grades[(grades == 0) & (np.bincount(items, off, len(grades)) == 0)] = grade
    if grades.all():
        return grades
    item = int(np.argmin(grades))
    own = scores[items == item]
    score = own[np.argmax(np.abs(np.round(own * choices[-1]) / choices[-1] - own))]
    if binary:
        wanted = f"{model} takes 0 and 1 only; graded, gpcm and pcm take parts."
    elif categories is None:
        wanted = f"its scores are no equal steps of up to {MOST_CATEGORIES} categories; see --categories."
    else:
        wanted = f"which is no multiple of 1/{categories - 1}, as {categories} categories would have."
    raise InvalidFile(f"{file.sample.name}: item {file.items[item]} has the score {score:g}; {wanted}")


def reliability(found: Calibration, answers: Answers) -> float:
    """That of the EAP abilities of those who answered, between 0 and 1."""
    abilities = estimate(found.bank, answers, 0.0, found.ability_variance)
    shown = float(abilities.ability.var())
    return shown / (shown + float((abilities.standard_error**2).mean()))


# Items


def by_name(bank: Bank) -> dict[str, Floats]:
    """What is estimated under a model, by its name: (I,), or (I, M) for what an item has several of."""
    found: dict[str, Floats] = {} if bank.model in COMMON_SLOPE else {"a": bank.discrimination}
    found |= {"b": bank.difficulty[:, 0]} if bank.model in BINARY else {STEPS[bank.model]: bank.difficulty}
    found |= {"c": bank.guessing} if bank.model in ASYMPTOTIC else {}
    return found | ({"d": bank.upper} if bank.model == "4pl" else {})


def of_item(bank: Bank, item: int) -> dict[str, float | list[float]]:
    """The same of one item; a list as long as the item has steps."""
    rows = {name: values[item] for name, values in by_name(bank).items()}
    highest = int(bank.grades[item])
    return {
        name: [rounded(value) for value in row[:highest]] if row.ndim else rounded(row) for name, row in rows.items()
    }


def errors_of_item(errors: Bank, item: int) -> dict[str, Any]:
    """Standard errors in that form; None for what ended at a limit."""
    return {
        name: [error or None for error in given] if isinstance(given, list) else given or None
        for name, given in of_item(errors, item).items()
    }


def items_table(fit: ItemFit) -> str:
    """What `proxima fit` prints of an item response model."""
    found, file = fit.calibration, fit.file
    model = found.bank.model
    many = [f"b{step + 1}" for step in range(found.bank.steps)]
    titles = [title for name in by_name(found.bank) for title in (many if name == STEPS.get(model) else [name])]
    answers = np.bincount(fit.answers.items, minlength=found.bank.count)
    rows = [
        [name, f"{answers[item]:,}", *item_cells(found, item), "yes" if found.calibrated[item] else "no"]
        for item, name in enumerate(file.items)
    ]
    learners, items = counted(fit.answers.learners, "learner"), counted(found.bank.count, "item")
    facts = [
        f"log-likelihood {found.log_likelihood:.3f} after {counted(found.iterations, 'iteration')}",
        "converged" if found.converged else "NOT converged",
        f"reliability {fit.reliability:.3f}",
    ]
    if model in COMMON_SLOPE:
        facts.append(f"ability variance {with_error(found.ability_variance, found.ability_variance_error)}")
    return "\n".join(
        [
            f"{model}: first answers of {learners} to {items}; {counted(fit.repeated, 'repeated answer')} left out",
            ", ".join(facts),
            "",
            *columned([["item", "answers", *(f"{title} (SE)" for title in titles), "calibrated"], *rows]),
        ]
    )


def item_cells(found: Calibration, item: int) -> Iterator[str]:
    """The parameters of one item as text; nothing for steps that only others have."""
    errors = of_item(found.standard_errors, item)
    for name, values in of_item(found.bank, item).items():
        error = errors[name]
        if isinstance(values, list) and isinstance(error, list):
            yield from map(with_error, values, error)
            yield from [""] * (found.bank.steps - len(values))
        elif isinstance(values, float) and isinstance(error, float):
            yield with_error(values, error)


def with_error(value: float, error: float) -> str:
    """A number and its standard error; what ended at a limit has none."""
    return f"{value:.3f} ({f'{error:.3f}' if error else 'limit'})"


def counted(number: int, what: str) -> str:
    """A number and what it counts."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def items_json(fit: ItemFit) -> dict[str, Any]:
    """What `proxima fit --json` prints of an item response model; what has no standard error has null."""
    found = fit.calibration
    answers = np.bincount(fit.answers.items, minlength=found.bank.count)
    return {
        "model": found.bank.model,
        "learners": fit.answers.learners,
        "answers": len(fit.answers.items),
        "repeated": fit.repeated,
        "rejected": len(fit.file.sample.rejections),
        "log_likelihood": rounded(found.log_likelihood),
        "iterations": found.iterations,
        "converged": found.converged,
        "reliability": rounded(fit.reliability),
        "ability_variance": rounded(found.ability_variance),
        "ability_variance_error": rounded(found.ability_variance_error) or None,
        "items": [
            {
                "item": name,
                "answers": int(answers[item]),
                "categories": int(found.bank.grades[item]) + 1,
                "calibrated": bool(found.calibrated[item]),
                **of_item(found.bank, item),
                "standard_errors": errors_of_item(found.standard_errors, item),
            }
            for item, name in enumerate(fit.file.items)
        ],
    }


def rounded(value: Any) -> float:
    """So many digits as mean something."""
    return round(float(value), DIGITS)


# Into a course


def catalogue(fit: ItemFit) -> dict[str, Any]:
    """The calibrated items with their parameters and skills, as the body of `PUT /v1/courses/{course}/catalogue`.

    Raises `InvalidFile` where there is nothing to rely on.
    """
    found, file = fit.calibration, fit.file
    if not found.converged:
        raise InvalidFile(f"{file.sample.name}: the search has not converged; no catalogue is written.")
    if not found.calibrated.any():
        raise InvalidFile(f"{file.sample.name}: not one item is calibrated; no catalogue is written.")
    items = [
        {
            "id": file.items[item],
            "skills": [file.skills[skill] for skill in file.sample.skills[item].tolist() if skill >= 0],
            "parameters": {"model": IN_CATALOGUES[found.bank.model], **of_item(found.bank, item)},
        }
        for item in np.flatnonzero(found.calibrated).tolist()
    ]
    named = dict.fromkeys(skill for item in items for skill in item["skills"])
    return {"skills": [{"id": skill} for skill in named], "items": items}


# Skills


def skills_table(fit: SkillFit) -> str:
    """What `proxima fit` prints of knowledge tracing."""
    content = skills_json(fit)
    named = {"prior": "P(L0)", "learn": "P(T)", "forget": "P(F)", "guess": "guess", "slip": "slip"}
    shown = {name: title for name, title in named.items() if name in content["skills"][0]}
    rows = [
        [
            row["skill"],
            f"{row['learners']:,}",
            f"{row['answers']:,}",
            *(f"{row[name]:.3f}" for name in shown),
            "yes" if row["identified"] else "no",
        ]
        for row in content["skills"]
    ]
    facts = [
        f"log-likelihood {content['log_likelihood']:.3f}",
        f"{int(fit.converged.sum()):,} of {counted(len(rows), 'skill')} converged",
    ]
    lines = [
        f"bkt: {counted(content['answers'], 'answer')} of {counted(content['learners'], 'learner')}",
        ", ".join(facts),
        "",
        *columned([["skill", "learners", "answers", *shown.values(), "identified"], *rows]),
    ]
    if fit.setup.per_item:
        own = [[row["item"], row["skill"], f"{row['guess']:.3f}", f"{row['slip']:.3f}"] for row in content["items"]]
        lines += ["", *columned([["item", "skill", "guess", "slip"], *own])]
    return "\n".join(lines)


def skills_json(fit: SkillFit) -> dict[str, Any]:
    """What `proxima fit --json` prints of knowledge tracing."""
    fitted, sample = fit.fitted, fit.file.sample
    content = {
        "model": "bkt",
        "learners": sample.log.learners,
        "answers": len(sample.log.items),
        "rejected": len(sample.rejections),
        "log_likelihood": rounded(float(fitted.log_likelihood.sum())),
        "skills": [
            {
                "skill": name,
                "learners": int(fit.learners[skill]),
                "answers": int(fit.answers[skill]),
                **rates_of(fit, skill),
                "identified": bool(fitted.identified[skill]),
                "log_likelihood": rounded(fitted.log_likelihood[skill]),
                "iterations": int(fitted.iterations[skill]),
                "converged": bool(fit.converged[skill]),
            }
            for skill, name in enumerate(fit.file.skills)
        ],
    }
    return content | ({"items": list(item_rates(fit))} if fit.setup.per_item else {})


def rates_of(fit: SkillFit, skill: int) -> dict[str, float]:
    """What was fitted of one skill; guess and slip unless its items have their own."""
    names = ("prior", "learn", "forget", *(() if fit.setup.per_item else bkt.OF_CLASSES))
    return {name: rounded(getattr(fit.fitted.rates, name)[skill]) for name in names}


def item_rates(fit: SkillFit) -> Iterator[dict[str, Any]]:
    """Guess and slip of every item for each of its skills."""
    fitted = fit.fitted
    for item, place in np.argwhere(fitted.skills >= 0).tolist():
        own = fitted.classes[item, place]
        yield {
            "item": fit.file.items[item],
            "skill": fit.file.skills[fitted.skills[item, place]],
            "guess": rounded(fitted.rates.guess[own]),
            "slip": rounded(fitted.rates.slip[own]),
        }
