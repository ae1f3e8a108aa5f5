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
from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.calibration.rest_predictions import first_responses
from app.adaptive.calibration.screening import Screening, screen_log
from app.adaptive.irt import ItemBank, ItemCalibration, ItemResponses, Model, Priors, calibrate_items
from app.adaptive.irt.ability import estimate
from app.adaptive.irt.item_models import ASYMPTOTIC, BINARY, COMMON_SLOPE, ITEM_MODELS
from app.adaptive.skill_chains import link_skill_chains
from app.analysis.evaluate import SPLIT, Progress, ResponseSample, duplicate_rows_json, read_sample
from app.analysis.tables import align_columns
from app.core.errors import InvalidFile
from app.files.responses import ROUNDING_TOLERANCE
from app.services.screening import describe_suspect_items, screening_report, screening_warnings

# The names under which the engine takes calibrated items; it has no partial credit.
CATALOGUE_MODELS = {model.name: model.catalogue_name for model in ITEM_MODELS if not model.partial_credit}
STEPS = {
    model.name: "steps" if model.partial_credit else "thresholds"
    for model in ITEM_MODELS
    if "thresholds" in model.parameters
}
MAX_CATEGORIES = 10
SEED = 1
DIGITS = 6


@dataclass(frozen=True)
class _ItemFit:
    """A bank calibrated to the first answer of every learner to every item; `repeated` others were left out.

    `reliability` is the share of the variance of ability that its estimates show: Var(EAP) / (Var(EAP) + mean SE²).
    `screening` says which items do not measure what the others do, and how many learners do not fit.
    """

    sample: ResponseSample
    responses: ItemResponses
    repeated: int
    calibration: ItemCalibration
    reliability: float
    screening: Screening

    @property
    def calibrated(self) -> Booleans:
        """(I,): which items can be relied on: calibrated, and not suspected of measuring something else."""
        return self.calibration.calibrated & ~self.screening.items.suspect


@dataclass(frozen=True)
class _SkillFit:
    """Knowledge tracing fitted to all answers; `learners` and `responses` are counts for each skill (S,)."""

    sample: ResponseSample
    fitted: bkt.BktFit
    setup: bkt.Setup
    learners: Integers
    responses: Integers

    @property
    def converged(self) -> Booleans:
        """(S,): whether the search ended because nothing was left to gain."""
        return self.fitted.iterations < self.setup.iterations


def fit_items(
    path: Path,
    model: Model,
    priors: Priors,
    categories: int | None,
    progress: Progress,
    max_score: float | None = None,
) -> _ItemFit:
    """Calibrate the items of a file. Raises `InvalidFile` for scores that the model does not take.

    `categories` is how many every item has; None finds out, item by item.
    """
    sample = read_sample(path, SPLIT, progress, max_score)
    log = sample.log
    max_category = max_categories(sample, model, categories)
    first = first_responses(log, len(sample.items))
    items = log.items[first]
    reached = np.round(log.scores[first] * max_category[items]).astype(np.int64)
    responses = ItemResponses(np.searchsorted(first, log.starts), items, reached)
    progress("calibrating", 0, 1)
    result = calibrate_items(responses, max_category, model, priors)
    progress("estimating abilities", 0, 1)
    reliability = _reliability(result, responses)
    return _ItemFit(sample, responses, len(log.items) - len(first), result, reliability, screen_log(log, sample.skills))


def fit_skills(path: Path, setup: bkt.Setup, progress: Progress, max_score: float | None = None) -> _SkillFit:
    """Fit knowledge tracing to the skills of a file. Raises `InvalidFile` if it names none."""
    sample = read_sample(path, SPLIT, progress, max_score)
    if not sample.skill_ids:
        raise InvalidFile(f"{path.name} names no skill; knowledge tracing is about skills.")
    progress("tracing", 0, 1)
    fitted = bkt.fit_bkt(sample.skills, sample.log, setup, np.random.default_rng(SEED))
    chains = link_skill_chains(sample.skills, sample.log)
    learners = np.bincount(chains.skill, minlength=len(sample.skill_ids))
    responses = np.bincount(chains.skill, chains.lengths, len(sample.skill_ids)).astype(np.int64)
    return _SkillFit(sample, fitted, setup, learners, responses)


# Answers


def max_categories(sample: ResponseSample, model: Model, categories: int | None) -> Integers:
    """The highest category of every item, (I,), from all its scores, those of repeated answers as well.

    It is the least number below 10 of which all scores are whole parts, rounded to two decimals or better; for models
    of right and wrong it is 1. A category between that nobody reached so remains one.
    """
    items, scores = sample.log.items, sample.log.scores
    binary = model in BINARY
    choices = [1] if binary else range(1, MAX_CATEGORIES) if categories is None else [categories - 1]
    max_category = np.zeros(len(sample.items), dtype=np.int64)
    for candidate in choices:
        off = np.abs(np.round(scores * candidate) / candidate - scores) > (0 if binary else ROUNDING_TOLERANCE)
        max_category[(max_category == 0) & (np.bincount(items, off, len(max_category)) == 0)] = candidate
    if max_category.all():
        return max_category
    item = int(np.argmin(max_category))
    own = scores[items == item]
    score = own[np.argmax(np.abs(np.round(own * choices[-1]) / choices[-1] - own))]
    if binary:
        requirement = f"{model} takes 0 and 1 only; graded, gpcm and pcm take parts."
    elif categories is None:
        requirement = f"its scores are no equal steps of up to {MAX_CATEGORIES} categories; see --categories."
    else:
        requirement = f"which is no multiple of 1/{categories - 1}, as {categories} categories would have."
    raise InvalidFile(f"{sample.name}: item {sample.items[item]} has the score {score:g}; {requirement}")


def _reliability(result: ItemCalibration, responses: ItemResponses) -> float:
    """That of the EAP abilities of those who answered, between 0 and 1."""
    abilities = estimate(result.item_bank, responses, 0.0, result.ability_variance)
    shown = float(abilities.ability.var())
    return shown / (shown + float((abilities.standard_error**2).mean()))


# Items


def _estimates_by_name(item_bank: ItemBank) -> dict[str, Floats]:
    """What is estimated under a model, by its name: (I,), or (I, M) for what an item has several of."""
    result: dict[str, Floats] = {} if item_bank.model in COMMON_SLOPE else {"a": item_bank.discrimination}
    result |= (
        {"b": item_bank.difficulty[:, 0]}
        if item_bank.model in BINARY
        else {STEPS[item_bank.model]: item_bank.difficulty}
    )
    result |= {"c": item_bank.guessing} if item_bank.model in ASYMPTOTIC else {}
    return result | ({"d": item_bank.upper} if item_bank.model == "4pl" else {})


def _item_estimates(item_bank: ItemBank, item: int) -> dict[str, float | list[float]]:
    """The same of one item; a list as long as the item has steps."""
    rows = {name: values[item] for name, values in _estimates_by_name(item_bank).items()}
    highest = int(item_bank.max_category[item])
    return {
        name: [_rounded(value) for value in row[:highest]] if row.ndim else _rounded(row) for name, row in rows.items()
    }


def _item_standard_errors(errors: ItemBank, item: int) -> dict[str, Any]:
    """Standard errors in that form; None for what ended at a limit."""
    return {
        name: [error or None for error in values] if isinstance(values, list) else values or None
        for name, values in _item_estimates(errors, item).items()
    }


def items_table(fit: _ItemFit) -> str:
    """What `proxima fit` prints of an item response model."""
    result, sample = fit.calibration, fit.sample
    model = result.item_bank.model
    many = [f"b{step + 1}" for step in range(result.item_bank.steps)]
    titles = [
        title
        for name in _estimates_by_name(result.item_bank)
        for title in (many if name == STEPS.get(model) else [name])
    ]
    responses = np.bincount(fit.responses.items, minlength=result.item_bank.count)
    rows = [
        [name, f"{responses[item]:,}", *_item_cells(result, item), "yes" if fit.calibrated[item] else "no"]
        for item, name in enumerate(sample.items)
    ]
    learners, items = _pluralise(fit.responses.learners, "learner"), _pluralise(result.item_bank.count, "item")
    facts = [
        f"log-likelihood {result.log_likelihood:.3f} after {_pluralise(result.iterations, 'iteration')}",
        "converged" if result.converged else "NOT converged",
        f"reliability {fit.reliability:.3f}",
    ]
    if model in COMMON_SLOPE:
        facts.append(f"ability variance {_format_estimate(result.ability_variance, result.ability_variance_error)}")
    return "\n".join(
        [
            f"{model}: first answers of {learners} to {items}; {_pluralise(fit.repeated, 'repeated answer')} left out",
            ", ".join(facts),
            "",
            *align_columns([["item", "answers", *(f"{title} (SE)" for title in titles), "calibrated"], *rows]),
            *_screening_lines(fit),
        ]
    )


def _screening_lines(fit: _ItemFit) -> list[str]:
    """What to look at before the parameters are relied on; nothing if nothing was found."""
    report = screening_report(fit.screening, fit.sample.items, [""] * fit.sample.log.learners)
    lines = [f"WARNING {warning['code']}: {warning['detail']}" for warning in screening_warnings(report)]
    return ["", *lines, *describe_suspect_items(report["suspect_items"]["items"])] if lines else []


def _item_cells(result: ItemCalibration, item: int) -> Iterator[str]:
    """The parameters of one item as text; nothing for steps that only others have."""
    errors = _item_estimates(result.standard_errors, item)
    for name, values in _item_estimates(result.item_bank, item).items():
        error = errors[name]
        if isinstance(values, list) and isinstance(error, list):
            yield from map(_format_estimate, values, error)
            yield from [""] * (result.item_bank.steps - len(values))
        elif isinstance(values, float) and isinstance(error, float):
            yield _format_estimate(values, error)


def _format_estimate(value: float, error: float) -> str:
    """A number and its standard error; what ended at a limit has none."""
    return f"{value:.3f} ({f'{error:.3f}' if error else 'limit'})"


def _pluralise(number: int, what: str) -> str:
    """A number and what it counts."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def items_json(fit: _ItemFit) -> dict[str, Any]:
    """What `proxima fit --json` prints of an item response model; what has no standard error has null."""
    result = fit.calibration
    responses = np.bincount(fit.responses.items, minlength=result.item_bank.count)
    return {
        "model": result.item_bank.model,
        "learners": fit.responses.learners,
        "answers": len(fit.responses.items),
        "repeated": fit.repeated,
        "duplicate_rows": duplicate_rows_json(fit.sample.duplicates),
        "rejected": len(fit.sample.rejections),
        "log_likelihood": _rounded(result.log_likelihood),
        "iterations": result.iterations,
        "converged": result.converged,
        "reliability": _rounded(fit.reliability),
        "ability_variance": _rounded(result.ability_variance),
        "ability_variance_error": _rounded(result.ability_variance_error) or None,
        "person_fit": {
            "judged": int(fit.screening.persons.judged.sum()),
            "misfitting": int(fit.screening.persons.misfitting.sum()),
            "many": fit.screening.persons.many,
        },
        "items": [
            {
                "item": name,
                "answers": int(responses[item]),
                "categories": int(result.item_bank.max_category[item]) + 1,
                "calibrated": bool(fit.calibrated[item]),
                **_item_estimates(result.item_bank, item),
                "standard_errors": _item_standard_errors(result.standard_errors, item),
                "item_rest": fit.screening.items.describe(item),
            }
            for item, name in enumerate(fit.sample.items)
        ],
    }


def _rounded(value: Any) -> float:
    """So many digits as mean something."""
    return round(float(value), DIGITS)


# Into a course


def build_catalogue(fit: _ItemFit) -> dict[str, Any]:
    """The calibrated items with their parameters and skills, as the body of `PUT /v1/courses/{course}/catalogue`.

    Raises `InvalidFile` where there is nothing to rely on.
    """
    result, sample = fit.calibration, fit.sample
    if not result.converged:
        raise InvalidFile(f"{sample.name}: the search has not converged; no catalogue is written.")
    if not fit.calibrated.any():
        raise InvalidFile(f"{sample.name}: not one item is calibrated; no catalogue is written.")
    items = [
        {
            "id": sample.items[item],
            "skills": [sample.skill_ids[skill] for skill in sample.skills[item].tolist() if skill >= 0],
            "parameters": {
                "model": CATALOGUE_MODELS[result.item_bank.model],
                **_item_estimates(result.item_bank, item),
            },
        }
        for item in np.flatnonzero(fit.calibrated).tolist()
    ]
    named = dict.fromkeys(skill for item in items for skill in item["skills"])
    return {"skills": [{"id": skill} for skill in named], "items": items}


# Skills


def skills_table(fit: _SkillFit) -> str:
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
        f"{int(fit.converged.sum()):,} of {_pluralise(len(rows), 'skill')} converged",
    ]
    lines = [
        f"bkt: {_pluralise(content['answers'], 'answer')} of {_pluralise(content['learners'], 'learner')}",
        ", ".join(facts),
        "",
        *align_columns([["skill", "learners", "answers", *shown.values(), "identified"], *rows]),
    ]
    if fit.setup.per_item:
        own = [[row["item"], row["skill"], f"{row['guess']:.3f}", f"{row['slip']:.3f}"] for row in content["items"]]
        lines += ["", *align_columns([["item", "skill", "guess", "slip"], *own])]
    return "\n".join(lines)


def skills_json(fit: _SkillFit) -> dict[str, Any]:
    """What `proxima fit --json` prints of knowledge tracing."""
    fitted, sample = fit.fitted, fit.sample
    content = {
        "model": "bkt",
        "learners": sample.log.learners,
        "answers": len(sample.log.items),
        "duplicate_rows": duplicate_rows_json(sample.duplicates),
        "rejected": len(sample.rejections),
        "log_likelihood": _rounded(float(fitted.log_likelihood.sum())),
        "skills": [
            {
                "skill": name,
                "learners": int(fit.learners[skill]),
                "answers": int(fit.responses[skill]),
                **_skill_rates(fit, skill),
                "identified": bool(fitted.identified[skill]),
                "log_likelihood": _rounded(fitted.log_likelihood[skill]),
                "iterations": int(fitted.iterations[skill]),
                "converged": bool(fit.converged[skill]),
            }
            for skill, name in enumerate(fit.sample.skill_ids)
        ],
    }
    return content | ({"items": list(_item_rates(fit))} if fit.setup.per_item else {})


def _skill_rates(fit: _SkillFit, skill: int) -> dict[str, float]:
    """What was fitted of one skill; guess and slip unless its items have their own."""
    names = ("prior", "learn", "forget", *(() if fit.setup.per_item else bkt.OF_CLASSES))
    return {name: _rounded(getattr(fit.fitted.rates, name)[skill]) for name in names}


def _item_rates(fit: _SkillFit) -> Iterator[dict[str, Any]]:
    """Guess and slip of every item for each of its skills."""
    fitted = fit.fitted
    for item, position in np.argwhere(fitted.skills >= 0).tolist():
        own = fitted.classes[item, position]
        yield {
            "item": fit.sample.items[item],
            "skill": fit.sample.skill_ids[fitted.skills[item, position]],
            "guess": _rounded(fitted.rates.guess[own]),
            "slip": _rounded(fitted.rates.slip[own]),
        }
