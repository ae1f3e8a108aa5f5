"""Plots of reports, as SVG; they need matplotlib, which is an extra."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from app.core.errors import InvalidSetting


def need_matplotlib() -> Any:
    """What plots are drawn on. Raises `InvalidSetting` without matplotlib."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra: needed here only
    except ImportError as error:
        raise InvalidSetting("plots need matplotlib; install proxima[plots]") from error
    return Figure


def save_plots(
    folder: Path, drawings: Mapping[str, Callable[..., None]], panels: int, size: tuple[float, float]
) -> list[Path]:
    """Draw one file for each name, `panels` side by side, which its drawing gets as arguments; the paths.

    `size` is in inches. The same drawing gives the same bytes. Raises `InvalidSetting` without matplotlib.
    """
    figure_class = need_matplotlib()
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, draw in drawings.items():
        figure = figure_class(figsize=size, layout="constrained")
        draw(*figure.subplots(1, panels))
        paths.append(folder / f"{name}.svg")
        figure.savefig(paths[-1], metadata={"Date": None})
    return paths
