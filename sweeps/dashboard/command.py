"""`symbreak dashboard`: create a W&B workspace and a W&B report."""

import dataclasses
import importlib.util
import json
import re
from typing import Any

from symbreak.sweeps.errors import UsageError

TITLE = "symbreak: how identical features become different"
ARM_KEYS = (
    "model.class_path",
    "model.init_args.init",
    "model.init_args.noise_scale",
    "model.init_args.dropout",
    "rounding_noise.ulps",
    "determinism.mode",
)
OUTCOMES = ("symmetry/escape_step", "test/accuracy")
STEP = "trainer/global_step"
_TARGET = re.compile(r"[^/\s]+/[^/\s]+")


@dataclasses.dataclass(frozen=True)
class Panel:
    """One line plot over steps: a key, or with `pattern` all keys that match a regular expression."""

    title: str
    key: str
    log: bool = False
    pattern: bool = False


@dataclasses.dataclass(frozen=True)
class Section:
    """Panels under a heading, with an explanation."""

    name: str
    text: str
    panels: tuple[Panel, ...]


STORY = (
    Section(
        "Accuracy",
        "A network whose channels stay identical learns like a network one channel wide: compare where the arms level "
        "off, and when those that break symmetry take off.",
        (
            Panel("Validation accuracy", "val/accuracy"),
            Panel("Training accuracy", "train/accuracy"),
            Panel("Training loss", "train/loss"),
            Panel("Test accuracy", "test/accuracy"),
        ),
    ),
    Section(
        "Symmetry",
        "Feature asymmetry is exactly 0 while all channels are equal (a logarithmic axis cannot show it), then grows "
        "exponentially; at 0.1 a network has escaped. Distinct filters count bitwise different filters per layer.",
        (
            Panel("Feature asymmetry, largest of the hidden layers", "symmetry/max_feature_asymmetry", log=True),
            Panel("Feature asymmetry by layer", "symmetry/feature_asymmetry/.*", log=True, pattern=True),
            Panel("Distinct filters by layer", "symmetry/distinct_filters/.*", pattern=True),
            Panel("Weight asymmetry", "symmetry/weight_asymmetry"),
        ),
    ),
    Section(
        "Diversity",
        "Mean correlation over all pairs of filters: 1 where all are multiples of one. Constant and random "
        "initialisations start at opposite ends; see whether they meet.",
        (
            Panel("Forward correlation", "diversity/forward_correlation"),
            Panel("Backward correlation", "diversity/backward_correlation"),
            Panel("Feature correlation", "diversity/feature_correlation"),
            Panel("Forward correlation by layer", "diversity/forward_correlation/.*", pattern=True),
        ),
    ),
    Section(
        "Ranks",
        "In how many directions the weights, and their change since initialisation, extend.",
        (Panel("Ranks, mean over layers", "[a-z_]+/[a-z_]*rank[a-z_]*", pattern=True),),
    ),
    Section(
        "Throughput",
        "What a step costs, and what watching it adds.",
        (Panel("Throughput", "throughput/.*", pattern=True), Panel("Learning rate", "lr-.*", pattern=True)),
    ),
)


def dashboard(target: str, dry_run: bool = False) -> None:
    """Create a W&B workspace and a W&B report for a project of symbreak runs, and print their URLs.

    Args:
        target: ENTITY/PROJECT on the W&B server.
        dry_run: Print the specification as JSON and send nothing.

    Raises:
        UsageError: If the target is malformed, wandb-workspaces is missing, or the server refuses.
    """
    if not _TARGET.fullmatch(target):
        raise UsageError(f"{target!r}: expected ENTITY/PROJECT")
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise UsageError("dashboards need wandb-workspaces: pip install 'symbreak[dashboard]'")
    entity, project = target.split("/")
    made = [workspace(entity, project), story(entity, project)]
    if dry_run:
        print(json.dumps([specification(item) for item in made], indent=2))
    else:
        for item in made:
            print(_save(item))


def workspace(entity: str, project: str) -> Any:
    """Return the workspace: a section per theme, runs grouped by arm."""
    import wandb_workspaces.workspaces as ws

    sections = [
        ws.Section(
            name=section.name,
            panels=[line_plot(panel) for panel in section.panels],
            is_open=True,
            layout_settings=ws.SectionLayoutSettings(columns=2, rows=2),
        )
        for section in STORY
    ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name="symbreak",
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis=STEP),
        runset_settings=ws.RunsetSettings(groupby=[ws.Config(key) for key in ARM_KEYS]),
    )


def story(entity: str, project: str) -> Any:
    """Return the report: the same panels with explanations, then parameters against outcomes."""
    import wandb_workspaces.reports.v2.interface as wr

    runs = wr.Runset(entity=entity, project=project, name="runs")
    blocks: list[Any] = [wr.TableOfContents()]
    for section in STORY:
        panels = [line_plot(panel) for panel in section.panels]
        blocks += [wr.H2(section.name), wr.P(section.text), wr.PanelGrid(runsets=[runs], panels=_placed(panels))]
    text = "One line per run, from its parameters through its escape step to its test accuracy."
    outcome = wr.PanelGrid(runsets=[runs], panels=[_parallel()])
    blocks += [wr.H2("Parameters and outcomes"), wr.P(text), outcome]
    return wr.Report(entity=entity, project=project, title=TITLE, blocks=blocks, width="fixed")


def line_plot(panel: Panel) -> Any:
    """Return a panel as a W&B line plot over optimiser steps: a group's mean, with the range as a band."""
    import wandb_workspaces.reports.v2.interface as wr

    plot = wr.LinePlot(title=panel.title, x=STEP, title_x="optimiser step", log_y=panel.log, smoothing_factor=0)
    plot.groupby_aggfunc, plot.groupby_rangefunc = "mean", "minmax"
    if panel.pattern:
        plot.metric_regex = panel.key
    else:
        plot.y = [panel.key]
    return plot


def _placed(panels: list[Any]) -> list[Any]:
    """Place two panels to a row of W&B's grid, which is 24 units wide."""
    import wandb_workspaces.reports.v2.interface as wr

    for i, panel in enumerate(panels):
        panel.layout = wr.Layout(x=12 * (i % 2), y=8 * (i // 2), w=12, h=8)
    return panels


def _parallel() -> Any:
    import wandb_workspaces.reports.v2.interface as wr

    metrics = [wr.Config(key) for key in ARM_KEYS] + [wr.SummaryMetric(key) for key in OUTCOMES]
    columns = [wr.ParallelCoordinatesPlotColumn(metric=metric) for metric in metrics]
    return wr.ParallelCoordinatesPlot(columns=columns, layout=wr.Layout(w=24, h=10))


def specification(item: Any) -> dict[str, Any]:
    """Return a workspace or report as plain data, without values at W&B's defaults."""
    return _stated(dataclasses.asdict(item))


def _stated(value: Any) -> Any:
    if isinstance(value, dict):
        stated = {str(key): _stated(item) for key, item in value.items() if not str(key).startswith("_")}
        return {key: item for key, item in stated.items() if item not in (None, "", [], {}, [None, None])}
    if isinstance(value, (list, tuple)):
        return [_stated(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _save(item: Any) -> str:
    import wandb

    try:
        return item.save().url
    except Exception as error:
        # The client raises a bare Exception if nobody is logged in; subclasses other than W&B's own are bugs.
        if type(error) is not Exception and not isinstance(error, wandb.Error):
            raise
        raise UsageError(f"W&B refused the {type(item).__name__.lower()}: {error}") from error
