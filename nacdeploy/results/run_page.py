"""The page about a run: of a search under way or of any result."""

from collections.abc import Sequence
from pathlib import Path

from nacdeploy.forecasts.forecast import told_rows
from nacdeploy.metrics import named, shown, shown_drop
from nacdeploy.profile import Profile
from nacdeploy.profile.tables.search import SearchTable
from nacdeploy.reports.figures import Panel
from nacdeploy.reports.fronts import speed_words
from nacdeploy.reports.layers import layer_changes
from nacdeploy.reports.layers_panel import layers_panel
from nacdeploy.reports.page import Page, Section, Tile
from nacdeploy.reports.search_panels import search_panels
from nacdeploy.results.run_material import Finished, Material, dense_answer
from nacdeploy.results.search_section import search_section, timed_words, within_section
from nacdeploy.sessions.session import Scores
from nacdeploy.strategies.search.journal import Evaluation
from nacdeploy.strategies.search.objective import Figures
from nacdeploy.strategies.search.search_result import SearchResult
from nacdeploy.strategies.steps import checkpoint as checkpoints

REPORT_FILE = "report.html"


def page_of(material: Material) -> Page:
    """Return the page of a run: with a result, its figures and layers; without one, the progress of the search."""
    found, result = material.found, material.result
    best = _shown_best(found, result) if found else None
    panels = search_panels(found, best) if found else []
    latency = result.latency if result else None
    sections = [_result_section(result)] if result is not None else []
    sections += within_section(result.candidates) if result is not None else []
    if found is not None:
        of_search = [panel for panel in panels if panel.name != "chain"]
        sections.append(search_section(found, best, _searched(material), latency, of_search))
    sections += _chain_section([panel for panel in panels if panel.name == "chain"], best, result)
    return Page(_title(material), _lead(material, best), sections, _tiles(best, result))


def _result_section(result: Finished) -> Section:
    return Section("result", "Result", "On the test split, scored once.", result_rows(result))


def result_rows(result: Finished) -> tuple[tuple[str, str], ...]:
    """Return the facts of a result: scores, ratios, a forecast and how far it was off."""
    where = [("times", timed_words(result.latency.setting))] if result.latency is not None else []
    return (
        *summary_rows(result.figures, result.scores),
        *where,
        *told_rows(result.forecast, result.found),
    )


def _chain_section(panels: list[Panel], best: Evaluation | None, result: Finished | None) -> list[Section]:
    """Return the section of the best chain and of what it did to layers; none where there is neither."""
    panels = [*panels, *(_layers(result) if result is not None else ())]
    name = best.chain if best is not None else result.chain if result is not None else ""
    own = dense_answer(result) if result is not None else None
    lead = f"{name}, from left to right." if name else ""
    lead += f" Layers are those of the answer, {own.name}." if own else ""
    return [Section("chain", "Chain", lead, panels=panels)] if panels else []


def _tiles(best: Evaluation | None, result: Finished | None) -> tuple[Tile, ...]:
    """Return the figures that a reader looks for first: of the result on test, else of the best chain so far."""
    figures = result.figures if result is not None else best.figures if best is not None else None
    if figures is None:
        return ()
    metric = figures.scored_by
    if result is not None:
        score, baseline, lost = result.scores.compressed, result.scores.baseline, result.scores.drop
        where = "test"
    else:
        score, baseline, lost = figures.score, figures.baseline_score, figures.drop
        where = "validation"
    speed = [Tile("measured speed", f"{figures.speed_ratio:.2f}x", _interval(figures))] if figures.speed_ratio else []
    return (
        Tile(f"{metric.title}, {where}", shown(metric, score), f"FP32: {shown(metric, baseline)}"),
        Tile("lost", shown_drop(metric, lost), f"on {where}"),
        Tile("BitOps", f"{figures.bitops_ratio:.2f}x", f"fewer; MACs {figures.macs_ratio:.2f}x"),
        Tile("memory", f"{figures.bytes_ratio:.2f}x", "smaller, heads and scales charged"),
        *speed,
    )


def _interval(figures: Figures) -> str:
    if figures.speed_low is None or figures.speed_high is None:
        return "against FP32"
    return f"{figures.speed_low:.2f} to {figures.speed_high:.2f} (95 %)"


def _shown_best(found: SearchResult, result: Finished | None) -> Evaluation | None:
    """Return the chain that the run answered with, else the best so far: a dense network's chain is no chain of the
    search."""
    by_chain = {e.chain: e for e in found.evaluations}
    answered = by_chain.get(result.chain) if result and not dense_answer(result) else None
    return answered or found.best or found.nearest


def title_of(result: Finished) -> str:
    """Return the title of a result."""
    if (own := dense_answer(result)) is not None:
        return f"{own.name} on {result.data}"
    return f"{result.chain or 'FP32'} on {result.model}, {result.data}"


def _title(material: Material) -> str:
    if material.result is not None:
        return title_of(material.result)
    profile = material.profile
    return f"Search on {profile.model}, {profile.data}, under way" if profile else "Run"


def _lead(material: Material, best: Evaluation | None) -> str:
    result, found = material.result, material.found
    if result is None:
        word = "best so far" if found and found.best else "nearest to the budget so far"
        shown_best = f" The {word} is {best.chain}." if best is not None else ""
        return f"The search is under way: scores are on validation, and may change.{shown_best}"
    own = dense_answer(result)
    if own is not None:
        return f"The answer is {own.name}, better on validation than any chain within the time."
    return f"{result.kind} with profile {result.profile}"


def _searched(material: Material) -> str:
    found, profile = material.found, material.profile
    if found is None or profile is None:
        return ""
    table = profile.search
    return (
        f"{len(found.evaluations) - 1} of {table.budget} chains evaluated by '{table.searcher}' over the letters "
        f"{table.alphabet}, {found.n_trainings} trainings; {_goal(table)}, at most {allowed(profile)} lost on "
        "validation. Ratios are baseline / now: more is better."
    )


def _goal(table: SearchTable) -> str:
    if table.speedup is not None:
        return f"the best score at {table.speedup:.4g} times the speed of FP32 or more"
    return f"objective '{table.objective}'"


def allowed(profile: Profile) -> str:
    """Print the drop that a search allows."""
    budget = profile.search.max_drop
    return "one point" if budget is None else f"{budget:g} {named(profile.metric).drop_unit}"


def _layers(result: Finished) -> Sequence[Panel]:
    """Return the picture by layer, where both checkpoints are still there and of one architecture."""
    places = [Path(result.checkpoint), Path(result.baseline_checkpoint)]
    if not all(map(checkpoints.is_checkpoint, places)):
        return []
    if len({checkpoints.read_record(place).model.name for place in places}) > 1:
        return []
    compressed, baseline = (checkpoints.load(place)[0] for place in places)
    return [layers_panel(layer_changes(baseline.network, compressed.network))]


def summary_rows(figures: Figures, scores: Scores) -> tuple[tuple[str, str], ...]:
    """Return the scores on the test split and the ratios, each with its name; measured speed where there is one."""
    metric = figures.scored_by
    speed = [("measured speed against FP32", speed_words(figures))] if figures.speed_ratio else []
    return (
        (f"FP32 baseline, test {metric.title}", shown(metric, scores.baseline)),
        (f"control (FP32, {scores.n_control_epochs} epochs more)", shown(metric, scores.control)),
        (f"compressed, test {metric.title}", shown(metric, scores.compressed)),
        (f"{metric.title} lost against the better of the two", shown_drop(metric, scores.drop)),
        ("BitOps ratio (analytic)", f"{figures.bitops_ratio:.2f}x"),
        ("MACs ratio (analytic)", f"{figures.macs_ratio:.2f}x"),
        ("memory ratio (analytic, heads and scales charged)", f"{figures.bytes_ratio:.2f}x"),
        ("NAC's own BitOpsCR / MemCR", f"{figures.nac_bitops_ratio:.2f} / {figures.nac_memory_ratio:.2f}"),
        *speed,
    )
