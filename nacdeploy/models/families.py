"""Smaller relatives of a network: the same architecture by width and depth, or a library's siblings by number.

A line holds the relatives of one depth, the largest first. Their times are not known here: who asks looks for the
largest that is fast enough.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from nacdeploy.models import ModelSpec, is_file, resnet
from nacdeploy.models.users import factory

Line = tuple[ModelSpec, ...]
WIDTHS = ("width", "width_mult", "width_multiplier", "width_factor", "width_coefficient")
DEPTHS = ("depth", "depth_mult", "depth_multiplier", "depth_factor", "depth_coefficient")
_STEPS = 16  # of a width that is a factor
_LAST_NUMBER = re.compile(r"(\d+)(?=\D*$)")


def lines(spec: ModelSpec) -> tuple[Line, ...]:
    """Return the smaller relatives of a network, a line for each depth, its own depth first; none if its name says
    nothing of them.

    Raises:
        UsageError: the user's file has changed or may not run.
    """
    if spec.ports is not None:
        return ()
    if spec.name in resnet.LAYOUTS:
        return _of_resnet(spec)
    if spec.name == "mobilenet_v2":
        return (tuple(replace(spec, width=each) for each in _fractions(spec.width or 1.0)),)
    library, _, name = spec.name.partition(":")
    if library in ("timm", "torchvision"):
        return tuple(line for line in [_siblings(spec, library, name)] if line)
    return _of_factory(spec) if is_file(spec.name) else ()


def said(spec: ModelSpec) -> str:
    """Describe a relative: its name, and the width of a built-in network."""
    return spec.name if spec.width is None else f"{spec.name} of width {spec.width:g}"


def _of_resnet(spec: ModelSpec) -> tuple[Line, ...]:
    """Return narrower ones of the same depth, and those of the nearest other depth with as many stages."""
    now, own = int(spec.width or resnet.LAYOUTS[spec.name].width), resnet.LAYOUTS[spec.name].n_blocks
    others = [name for name, layout in resnet.LAYOUTS.items() if name != spec.name and len(layout.n_blocks) == len(own)]
    others.sort(key=lambda name: abs(sum(resnet.LAYOUTS[name].n_blocks) - sum(own)))
    widths = range((now - 1) // 4 * 4, 0, -4)
    return tuple(
        tuple(replace(spec, name=name, width=float(width)) for width in widths) for name in (spec.name, *others[:1])
    )


def _siblings(spec: ModelSpec, library: str, name: str) -> Line:
    """Return a library's networks whose names differ in the last number alone, which is smaller: resnet34 and resnet18
    of resnet50."""
    name = name.partition(".")[0]  # timm's tag of weights
    if not (last := _LAST_NUMBER.search(name)):
        return ()
    form = re.compile(re.escape(name[: last.start()]) + r"(\d+)" + re.escape(name[last.end() :]))
    found = {each: int(match[1]) for each in _listed(library) if (match := form.fullmatch(each))}
    smaller = sorted((each for each in found if found[each] < int(last[1])), key=lambda each: -found[each])
    return tuple(replace(spec, name=f"{library}:{each}") for each in smaller)


def _listed(library: str) -> Sequence[str]:
    if library == "timm":
        import timm

        return timm.list_models()
    from torchvision import models

    return models.list_models(module=models)


def _of_factory(spec: ModelSpec) -> tuple[Line, ...]:
    """Return what a user's function makes with a smaller width, at its own depth and at half of it, by the arguments
    that are called so and have a number."""
    now = {**factory.defaults(spec.name, spec.source_sha256), **factory.arguments(spec.name)}
    width, depth = (next((name for name in names if name in now), None) for names in (WIDTHS, DEPTHS))
    if width is None:
        return ()
    widths = list(_smaller(now[width]))
    found = [tuple(_with(spec, {width: each}) for each in widths)]
    if depth is not None and (half := _halved(now[depth])) is not None:
        found.append(tuple(_with(spec, {width: each, depth: half}) for each in (now[width], *widths)))
    return tuple(line for line in found if line)


def _with(spec: ModelSpec, given: dict[str, int | float]) -> ModelSpec:
    return replace(spec, name=factory.named(spec.name, given))


def _smaller(now: int | float) -> Iterator[int | float]:
    """Yield smaller widths: whole numbers of channels, or parts of a factor."""
    if isinstance(now, float):
        yield from _fractions(now)
        return
    step = 4 if now > 8 else 1
    yield from range((now - 1) // step * step, 0, -step)


def _fractions(now: float) -> Iterator[float]:
    steps = int(_STEPS * now - 1e-9)
    yield from (step / _STEPS for step in range(steps, 0, -1))


def _halved(now: int | float) -> int | float | None:
    if isinstance(now, float):
        return now / 2
    return now // 2 if now > 1 else None
