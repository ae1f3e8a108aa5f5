"""Adaptive tests on simulated learners: `proxima simulate test`. No database, no files but the banks and the plots.

The tests are given by the code of the service. Every rule tests the same learners, who answer an item alike whatever
was asked before. Exposure parameters are calibrated with other learners than those that are told of.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from app.adaptive.arrays import Floats
from app.adaptive.cat import Classification, Method, Plan, Pool, Rule
from app.adaptive.cat.simulate import Records, administration_matrix, calibrate_exposure, draw_abilities, simulate_tests
from app.analysis import plots
from app.analysis.evaluate import Progress
from app.analysis.tables import Figure, format_row, round_figures
from app.core.errors import InvalidSetting
from app.files.item_parameters import Constraints, ItemFile

# The seed of calibrations is this far from that of the tests.
CALIBRATION_SEED_SHIFT = 1_000_000
# Of a standard normal variable, 90 % are within this.
Z_90 = 1.6448536269514722
# Without an end a test would take the whole bank.
DEFAULT_STANDARD_ERROR, DEFAULT_MAX_ITEMS = 0.3, 200
CELL_WIDTH = 9
COLUMNS = (
    "items",
    "±",
    "bias",
    "±",
    "RMSE",
    "±",
    "SE",
    "in 90 %",
    "±",
    "exposed",
    "overlap",
    "unused",
    "broken",
    "wrong",
)


@dataclass(frozen=True)
class CatStudyOptions:
    """What is to be tried on every bank.

    A `target` adds each rule with Sympson–Hetter exposure control for that greatest rate; `content` names the column
    whose values are given in their shares of the bank; `shadow` keeps the constraints, which are else only counted.
    """

    rules: tuple[Rule, ...]
    learners: int
    seed: int
    standard_error: float | None = None
    max_items: int | None = None
    randomesque: int = 1
    target: float | None = None
    content: str | None = None
    shadow: bool = False
    cuts: tuple[float, ...] = ()
    method: Method = "interval"


@dataclass(frozen=True)
class _CatStudyResult:
    """How a rule did on a bank; means over learners with their standard errors.

    `items` of a test; `bias` and `rmse` of θ; the `standard_error` it claims; how often the 90 % interval `covered` the
    truth; the greatest rate of `exposure` of an item; `overlap`: what share of a test two learners have in common;
    `unused` items, a share of the bank. `broken` constraints a test and `wrong` levels, where there are any. `relaxed`:
    steps of a test in which a constraint had to be relaxed.
    """

    items: Figure
    bias: Figure
    rmse: Figure
    standard_error: Figure
    covered: Figure
    exposure: Figure
    overlap: Figure
    unused: float
    broken: Figure | None
    wrong: Figure | None
    relaxed: Figure


@dataclass(frozen=True)
class _CatStudyReport:
    """Results and tests by bank and rule."""

    results: Mapping[str, Mapping[str, _CatStudyResult]]
    records: Mapping[str, Mapping[str, Records]]
    sizes: Mapping[str, int]
    options: CatStudyOptions


def run_cat_study(
    banks: Sequence[ItemFile], constraints: Sequence[Constraints | None], options: CatStudyOptions, progress: Progress
) -> _CatStudyReport:
    """Test the learners of every bank by every rule. `progress`: a stage, how far, and of what.

    Raises `InvalidSetting` for what a bank cannot give.
    """
    results: dict[str, dict[str, _CatStudyResult]] = {}
    records: dict[str, dict[str, Records]] = {}
    pools = [_with_content(item_file, options.content) for item_file in banks]
    for item_file, pool, pool_constraints in zip(banks, pools, constraints, strict=True):
        truth = draw_abilities(Plan(), options.learners, options.seed)
        results[item_file.name], records[item_file.name] = {}, {}
        for rule in options.rules:
            plan = plan_for_rule(pool, rule, pool_constraints, options)
            for target in (None, options.target) if options.target and rule != "random" else (None,):
                name = rule if target is None else f"{rule}, exposure {target:g}"
                stage = f"{item_file.name}, {name}"
                try:
                    rule_records = _run_tests(pool, plan, target, truth, options.seed, _stage_progress(progress, stage))
                except ValueError as error:
                    raise InvalidSetting(f"{stage}: {error}") from error
                records[item_file.name][name] = rule_records
                results[item_file.name][name] = summarise_tests(pool, plan, pool_constraints, rule_records)
    return _CatStudyReport(results, records, {item_file.name: item_file.pool.count for item_file in banks}, options)


def _stage_progress(progress: Progress, stage: str) -> Callable[[str], Callable[[float, float], None]]:
    """The progress of the parts of a stage."""
    return lambda part: lambda done, whole: progress(f"{stage}{part}", done, whole)


def _run_tests(
    pool: Pool,
    plan: Plan,
    target: float | None,
    truth: Floats,
    seed: int,
    progress_of: Callable[[str], Callable[[float, float], None]],
) -> Records:
    """The tests of all learners, after the exposure parameters are calibrated if there is a target."""
    if target is not None:
        pool = calibrate_exposure(
            pool, plan, target, seed + CALIBRATION_SEED_SHIFT, progress=progress_of(", calibration")
        )
        plan = replace(plan, sympson_hetter=True, randomesque=1)
    return simulate_tests(pool, plan, truth, seed, progress_of(""))


def _with_content(item_file: ItemFile, column: str | None) -> Pool:
    """The pool with the values of a column as its groups of content."""
    if column is None:
        return item_file.pool
    values = item_file.attributes.get(column.lower())
    if values is None:
        known = ", ".join(item_file.attributes) or "none"
        raise InvalidSetting(f"{item_file.name} has no column {column} for its content; it has {known}")
    return replace(item_file.pool, content=np.unique(values, return_inverse=True)[1].astype(np.int64))


def plan_for_rule(pool: Pool, rule: Rule, pool_constraints: Constraints | None, options: CatStudyOptions) -> Plan:
    """The test of one rule."""
    length = (
        pool_constraints.max_items if pool_constraints is not None and pool_constraints.max_items is not None else None
    )
    precise = options.standard_error
    if precise is None and options.max_items is None and length is None and not options.cuts:
        precise = DEFAULT_STANDARD_ERROR
    most = min(pool.count, options.max_items or length or DEFAULT_MAX_ITEMS)
    shadow = options.shadow and pool_constraints is not None and rule != "random"
    return Plan(
        rule=rule,
        randomesque=options.randomesque if rule != "random" else 1,
        content_shares=tuple(np.bincount(pool.content).tolist()) if options.content is not None else (),
        bounds=pool_constraints.bounds if shadow and pool_constraints is not None else (),
        standard_error=precise,
        classification=Classification((options.cuts,), options.method) if options.cuts else None,
        max_items=most,
        min_items=min(most, pool_constraints.min_items) if pool_constraints is not None else 0,
    )


def summarise_tests(pool: Pool, plan: Plan, pool_constraints: Constraints | None, records: Records) -> _CatStudyResult:
    """The figures of the tests of one rule."""
    error = (records.ability - records.truth)[:, 0]
    squares = _mean_over_learners(error**2)
    rmse = squares.mean**0.5
    table = administration_matrix(pool, records)
    rates = table.mean(axis=0)
    most, many = float(rates.max()), len(error)
    broken = None
    if pool_constraints is not None:
        counts = np.array(
            [table[:, pool.groups[bound.group]].sum(axis=1) for bound in pool_constraints.bounds]
        ).reshape(-1, many)
        limits = np.array([(bound.least, bound.most) for bound in pool_constraints.bounds]).reshape(-1, 2)
        broken = _mean_over_learners(((counts < limits[:, :1]) | (counts > limits[:, 1:])).sum(axis=0))
    cuts = plan.classification.cuts[0] if plan.classification is not None else ()
    true_level = (records.truth[:, :1] > np.array(cuts)).sum(axis=1)
    return _CatStudyResult(
        items=_mean_over_learners(records.length),
        bias=_mean_over_learners(error),
        rmse=Figure(rmse, squares.error / (2 * rmse) if rmse else 0.0),
        standard_error=_mean_over_learners(records.standard_error[:, 0]),
        covered=_mean_over_learners(np.abs(error) <= Z_90 * records.standard_error[:, 0]),
        exposure=Figure(most, (most * (1 - most) / many) ** 0.5),
        overlap=overlap_of(table),
        unused=float((rates == 0).mean()),
        broken=broken,
        wrong=_mean_over_learners(records.level[:, 0] != true_level) if cuts else None,
        relaxed=_mean_over_learners(records.relaxed),
    )


def _mean_over_learners(values: Any) -> Figure:
    """The mean over learners and its standard error."""
    numbers = np.asarray(values, dtype=np.float64)
    return Figure(float(numbers.mean()), float(numbers.std(ddof=min(1, len(numbers) - 1)) / len(numbers) ** 0.5))


def overlap_of(table: Any) -> Figure:
    """The mean number of items that two tests share, over their mean length (Chen, Ankenmann & Spray 2003).

    A mean over pairs (Hoeffding 1948) over a mean: its error is that of its linear part.
    """
    many, lengths = len(table), table.sum(axis=1)
    if many == 1 or not lengths.any():
        return Figure(0.0, 0.0)
    common = (table * (table.sum(axis=0) - 1)).sum(axis=1) / (many - 1)
    share = common.mean() / lengths.mean()
    return Figure(float(share), _mean_over_learners((2 * common - share * lengths) / lengths.mean()).error)


def as_json(report: _CatStudyReport) -> dict[str, Any]:
    """The figures by bank and rule."""
    return {
        "seed": report.options.seed,
        "learners": report.options.learners,
        "banks": {
            name: {
                "items": report.sizes[name],
                "rules": {rule: round_figures(result) for rule, result in row.items()},
            }
            for name, row in report.results.items()
        },
    }


def as_table(report: _CatStudyReport) -> str:
    """A table for each bank."""
    widest = max(len(name) for row in report.results.values() for name in (*row, *report.sizes)) + 12
    lines = [f"{report.options.learners:,} learners from N(0, 1), seed {report.options.seed}"]
    for name, row in report.results.items():
        lines += ["", format_row(f"{name}, {report.sizes[name]:,} items", COLUMNS, widest, CELL_WIDTH)]
        for rule, result in row.items():
            lines.append(format_row(rule, _format_result(result), widest, CELL_WIDTH))
    return "\n".join(lines)


def _format_result(result: _CatStudyResult) -> list[str]:
    """One row of the table."""

    def share(value: Figure | float | None) -> str:
        return "" if value is None else f"{100 * (value.mean if isinstance(value, Figure) else value):.1f} %"

    return [
        f"{result.items.mean:.1f}",
        f"{result.items.error:.1f}",
        *(f"{part:.3f}" for each in (result.bias, result.rmse) for part in (each.mean, each.error)),
        f"{result.standard_error.mean:.3f}",
        *(share(part) for part in (result.covered, result.covered.error)),
        *(share(each) for each in (result.exposure, result.overlap, result.unused)),
        "" if result.broken is None else f"{result.broken.mean:.2f}",
        share(result.wrong),
    ]


def save_plots(report: _CatStudyReport, folder: Path) -> list[Path]:
    """Three panels for each item bank: items and error of θ by true ability, and how often each item was given.

    Raises `InvalidSetting` without matplotlib.
    """
    drawings = {
        name.removesuffix(".gz").removesuffix(".csv"): partial(_draw_tests, name, report.sizes[name], row)
        for name, row in report.records.items()
    }
    return plots.save_plots(folder, drawings, panels=3, size=(15, 4.5))


def _draw_tests(name: str, items: int, row: Mapping[str, Records], lengths: Any, errors: Any, exposure: Any) -> None:
    """Draw the tests that every rule gave from one item bank, of so many items."""
    for rule, records in row.items():
        truth = records.truth[:, 0]
        lengths.plot(truth, records.length, ".", alpha=0.5, label=rule)
        errors.plot(truth, records.ability[:, 0] - truth, ".", alpha=0.5)
        counts = np.bincount(np.concatenate(records.items).astype(np.int64), minlength=items)
        exposure.plot(np.arange(1, len(counts) + 1), np.sort(counts / len(truth))[::-1])
    lengths.set(title=f"{name}: items of a test", xlabel="true ability")
    errors.set(title="estimated less true ability", xlabel="true ability")
    exposure.set(title="share of the tests an item is in", xlabel="items, most given first", ylim=(0, 1.02))
    lengths.legend(fontsize="small")
