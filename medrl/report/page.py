"""`medrl report`: one HTML file that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from medrl.errors import ConfigError
from medrl.report import charts
from medrl.report.read import Run, read_folder
from medrl.report.sections import Section, section
from medrl.run_dir import write_text
from medrl.timer import duration

FILE = "report.html"


@dataclass(frozen=True)
class Span:
    """The time of one link."""

    name: str
    text: str
    share: float  # per cent of the longest


def run_report(folder: str, out: str | None) -> Path:
    """Write the page about a run or a pipeline (default: into its folder), say where it is, and return its path."""
    file = write_report(read_folder(Path(folder)), Path(folder).resolve().name, Path(out or Path(folder, FILE)))
    print(f"the report is {file}")
    return file


def write_report(runs: Sequence[Run], title: str, file: Path) -> Path:
    """Write the page about `runs`, in their order. Raises ConfigError if `file` cannot be written."""
    text = render(runs, title)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
    except OSError as error:
        raise ConfigError(f"cannot write {file}", got=str(error), remedy="choose another place with --out") from None
    return file


def render(runs: Sequence[Run], title: str) -> str:
    """The page as HTML. Text from the runs is escaped; there is no script, and the page forbids any."""
    # Autoescape by hand: Jinja2's own rule goes by file endings, and ours is .jinja.
    environment = Environment(loader=PackageLoader("medrl.report"), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    sections = [section(run) for run in runs]
    return environment.get_template("page.html.jinja").render(
        title=title, sections=sections, times=_spans(runs), total=_total(runs), plot=charts,
        changed=_last(sections, "ppo"), judged=_last(sections, "evaluation"),
    )


def _last(sections: Sequence[Section], kind: str) -> Section | None:
    return next((found for found in reversed(sections) if found.kind == kind), None)


def _spans(runs: Sequence[Run]) -> list[Span]:
    """The seconds of several runs, to compare; empty for one run alone."""
    timed = [(run.name, run.seconds) for run in runs if run.seconds is not None]
    longest = max((seconds for _, seconds in timed), default=0.0)
    if len(timed) < 2 or not longest:
        return []
    return [Span(name, duration(seconds), 100 * seconds / longest) for name, seconds in timed]


def _total(runs: Sequence[Run]) -> str:
    seconds = [run.seconds for run in runs if run.seconds is not None]
    return duration(sum(seconds)) if seconds else ""
