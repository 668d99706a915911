"""The one way from what a user asks to the settings in force. A stronger source stands over a weaker one, key by key.

From the strongest to the weakest:

1. a rule file (`--rules`), for the layers of P, S and C; it adds to what is excluded
2. a precision file (`--precision`), for the layers that Q leaves in float; it adds to what is excluded
3. a checkpoint folder (`--checkpoint`), for the model and data that nobody names with an option
4. an option, then nacdeploy.toml
5. a strategy file, for the tables of its letters
6. the profile, then the default of the key

What these leave open ("measured", "target", a normalisation) is filled in by a measurement on this machine, by the
target and by the checkpoint's or the network's own normalisation. The parameters of a letter, `P(ratio=0.1)`, hold for
that letter whatever the settings say. `wanted` takes in everything that needs no network, so that what is wrong is said
before any work; `settled` adds the rest.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nacdeploy import data
from nacdeploy import profile as profiles
from nacdeploy import task as tasks
from nacdeploy.base.errors import UsageError
from nacdeploy.base.outside import own
from nacdeploy.base.progress import Progress
from nacdeploy.coding import rule_files
from nacdeploy.coding.rule_files import RuleFile
from nacdeploy.exporters import carry
from nacdeploy.exporters.tune import Precisions
from nacdeploy.network.network import Network
from nacdeploy.profile import Profile
from nacdeploy.profile.settings import Layer, Settings
from nacdeploy.sessions import measured, preprocessing, presets, unlabelled
from nacdeploy.sessions.options import SETTINGS_FILE, Options, filled, texts
from nacdeploy.strategies.baseline import plain_network
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.operators.prune.settings import PruneTable
from nacdeploy.strategies.operators.quantize.settings import QuantizeTable
from nacdeploy.strategies.search.alphabet import parsed
from nacdeploy.strategies.steps import checkpoint as checkpoints
from nacdeploy.strategies.steps import letters as known_letters
from nacdeploy.strategies.steps.checkpoint import Record
from nacdeploy.strategies.strategy import Strategy, brought, resolve
from nacdeploy.task import Task

_Tables = Mapping[str, Mapping[str, Any]]
# The keys that shared options give.
_KEYS: dict[str, tuple[str, ...]] = {
    **{key: (key,) for key in ("model", "data", "width", "seed")},
    "task": ("model", "data"),
    "normalize": ("images.mean", "images.std"),
    "classes": ("images.classes",),
    "input_size": ("images.input_size",),
    "preprocess": ("images.preprocess",),
}
_READ_BY = {"sparsify": "S", "prune": "P", "code": "C"}


@dataclass(frozen=True)
class Request:
    """The request to a command, before any work.

    Attributes:
        options: all options, defaults filled in.
        settings: the values of options and files that need no network.
        letters: the letters of the chains to come; None if the network stays, and nothing is measured for it.
        chain: the chain to apply, if one is given.
        origin: what a strategy file records of the run in which its chain was found.
        precision: a precision file and its content.
        rules: a rule file.
    """

    options: Options
    settings: Settings
    letters: str | None = None
    chain: Chain = field(default_factory=Chain)
    precision: tuple[str, Precisions] | None = None
    rules: RuleFile | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Setup:
    """The settings in force, with the task and the untrained network that they describe.

    `normalised` says in one line how images are normalised, and why.
    """

    settings: Settings
    task: Task
    network: Network
    normalised: str

    @property
    def profile(self) -> Profile:
        """The values in force."""
        return self.settings.profile


def wanted(options: Options, letters: str | None = None, **tables: Mapping[str, Any]) -> Request:
    """Return a request by options; `tables` are keys of the profile's tables that further options give (None: nothing).

    Raises:
        UsageError: no such profile, or a value that it does not take.
    """
    options = filled(options)
    data.name_by_user(options["data"])
    settings = Settings.loaded(options["profile"])
    return Request(options, settings.over(*_by_options(options, tables, settings.profile)), letters)


def to_apply(
    strategy: str | Strategy,
    options: Options,
    precision: Path | str | None = None,
    rules: Path | str | None = None,
    latency_table: Path | str | None = None,
) -> Request:
    """Return a request to apply a word, a strategy file or a published strategy.

    `latency_table` is one of another machine.

    Raises:
        UsageError: the strategy, a letter or a parameter is unknown, a file is not what it should be, or the options
            are wrong.
    """
    found = resolve(strategy)
    if precision is not None and "Q" not in found.chain.word:
        raise UsageError(f"--precision says which layers Q leaves in float, and '{found.chain}' has no Q")
    if latency_table is not None and "P" not in found.chain.word:
        raise UsageError(f"--latency-table is what a P by time goes by, and '{found.chain}' has no P")
    options = filled(options)
    data.name_by_user(options["data"])
    settings = Settings.loaded(options["profile"])
    times = {} if latency_table is None else {"prune": {"latency_table": str(latency_table)}}
    by_options = _by_options(options, times, settings.profile)
    settings = settings.over((f"strategy {found.chain if found is strategy else strategy}", brought(found))).over(
        *by_options
    )
    known_letters.check(found.chain, settings.profile)
    carried = (str(precision), carry.read(Path(precision))) if precision is not None else None
    read = rule_files.read(Path(rules)) if rules is not None else None
    return Request(options, settings, found.chain.word, found.chain, carried, read, found.origin)


def to_search(request: Request, n_workers: int = 1) -> Request:
    """Return the request of a search by `n_workers`: as many chains are under way as there are workers, unless a source
    says how many."""
    settings = request.settings
    if settings.profile.search.window is None:
        settings = settings.over(("the number of workers", {"search": {"window": n_workers}}))
    return replace(request, settings=settings, letters=parsed(settings.profile.search.alphabet).letters)


def recorded(
    profile: Mapping[str, Any], where: Path, options: Options, checkpoint: str | None, new_head: bool, **tables: Any
) -> Request:
    """Return a request to go on as a run recorded it; `tables` as in `wanted`.

    Raises:
        UsageError: the record holds no profile, or is somebody else's and lies beside a link out of its folder.
    """
    own.check_links(where.parent, where)
    found = profiles.from_mapping(dict(profile), where=str(where))
    if own.is_own(where):
        data.name_by_user(found.data)
    theirs = Options(model=found.model, data=found.data, checkpoint=checkpoint, new_head=new_head)
    by_tables = _by_options({"settings_file": {}}, tables, found)
    return Request(filled({**options, **theirs, "task": None}), Settings.of(found, str(where)).over(*by_tables))


def search_keys(search: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of the search table that are given; folders are named whole, so that a run finds them from
    anywhere."""
    given = {key: value for key, value in texts(search).items() if value is not None}
    if experience := given.pop("experience", None):
        given["experience"] = [str(Path(one).resolve()) for one in experience]
    return given


def settled(request: Request, progress: Progress) -> Setup:
    """Return the settings in force of a request, every open one filled in, with their task and network.

    Raises:
        NacdeployError: a name is unknown, data are missing, or a file fits nothing of the network.
    """
    settings, path = request.settings, request.options["checkpoint"]
    record = checkpoints.read_record(Path(path)) if path is not None and Path(path).is_dir() else None
    their_model = record.model.name if record is not None and request.options["model"] is None else None
    settings = settings.over(*presets.layers(settings, their_model or settings.profile.model))
    if record is not None:
        settings = settings.over((f"checkpoint {path}", _of_checkpoint(record, request.options, settings.profile)))
    if request.letters is not None:
        by_time = _prunes_by_time(request, settings.profile)
        settings = settings.over(*measured.layers(settings.profile, request.letters, progress, by_time))
    given = Path(path) if path is not None else None
    settings = settings.over(*unlabelled.layers(settings, record, given, request.options["new_head"]))
    why, images = preprocessing.settled(settings.profile, record, path is not None)
    settings = settings.over((why, images))
    task = tasks.make(settings.profile.model, settings.profile.data, settings.profile)
    if task.is_own:
        settings = settings.over((task.spec.name, {"metric": task.metric.name}))
    network = plain_network(task, settings.profile)
    if request.precision is not None:
        settings = settings.over(_in_precision(*request.precision, settings.profile, network, progress))
    if request.rules is not None:
        settings = settings.over(_by_rules(request.rules, settings.profile, network, request.chain, progress))
    return Setup(settings, task, network, preprocessing.line(task.data, why))


def _prunes_by_time(request: Request, profile: Profile) -> bool:
    """Tell whether a P of the chain, or of the chains of a search, leaves a time."""
    table, links = profile.of(PruneTable), request.chain.links or parsed(profile.search.alphabet).links
    return table.is_by_time or any(
        link.letter == "P" and {"time", "target_ms"} & dict(link.parameters).keys() for link in links
    )


def _by_options(given: Mapping[str, Any], tables: _Tables, profile: Profile) -> Iterator[Layer]:
    """Yield the values of nacdeploy.toml and options, key by key. Another model than the profile's has its own
    default width."""
    keys = {**_KEYS, **{key: (f"{name}.{key}",) for name, table in tables.items() for key in table}}
    given = {**given, **{key: value for table in tables.values() for key, value in table.items()}}
    file, named = (
        search_keys(given["settings_file"]),
        {name: given[name] for name in keys if given.get(name) is not None},
    )
    if named.get("model", profile.model) != profile.model and "width" not in named:
        keys["model"], named["model"] = ("model", "width"), (named["model"], None)
    for name, value in named.items():
        from_file = name in file and file[name] == given[name]
        if name in file and not from_file:
            yield SETTINGS_FILE, _nested(dict.fromkeys(keys[name], file[name]))
        source = SETTINGS_FILE if from_file else f"--{name.replace('_', '-')}"
        yield source, _nested(dict(zip(keys[name], _by_key(name, value), strict=True)))


def _by_key(name: str, value: Any) -> tuple[Any, ...]:
    """Return the values that an option gives its keys."""
    if name == "task":
        return value, value
    if name == "normalize":
        return tuple(preprocessing.asked(value, None).values())
    return value if name == "model" and isinstance(value, tuple) else (value,)


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Tables from dotted keys."""
    tables: dict[str, Any] = {}
    for key, value in values.items():
        table, _, inner = key.rpartition(".")
        (tables.setdefault(table, {}) if table else tables)[inner] = value
    return tables


def _of_checkpoint(record: Record, options: Options, profile: Profile) -> dict[str, Any]:
    """Return what a checkpoint folder knows: its model need not be named again."""
    if options["model"] is not None or options["task"] is not None:
        return {}
    given: dict[str, Any] = {"model": record.model.located, "width": record.model.width}
    if options["data"] is None:
        theirs, ours = record.settings(), profile.images.model_dump(mode="json")
        images = {**theirs.images.model_dump(mode="json"), **preprocessing.given_keys(profile)}
        given |= {"data": theirs.data, "images": {key: value for key, value in images.items() if value != ours[key]}}
    return given


def _in_precision(source: str, precisions: Precisions, profile: Profile, network: Network, progress: Progress) -> Layer:
    """Return the layers to leave out of Q because they were measured elsewhere to be better in float."""
    found = carry.carried(precisions, network)
    progress.say(str(found))
    return f"precision {source}", {"quantize": {"exclude": _with(profile.of(QuantizeTable).exclude, found.floats)}}


def _by_rules(rules: RuleFile, profile: Profile, network: Network, chain: Chain, progress: Progress) -> Layer:
    """Translate a rule file for the network's layers, and report ignored lines. Excluded layers stay excluded."""
    n_times = chain.word.count("S")
    found = rule_files.tables(rules, network.layers, max(n_times, 1))
    unread = [_READ_BY[key] for key in found.tables if _READ_BY[key] not in chain.word]
    for line in (*found.ignored, *(f"rules for {letter}, which is not in '{chain}': ignored" for letter in unread)):
        progress.say(line)
    if n_times and found.n_stages > n_times:
        taken = "last is" if n_times == 1 else f"last {n_times} are"
        more = f"the {taken} taken; another S would take one more"
        progress.say(f"{rules.where} has {found.n_stages} stages of pruning: {more}")
    tables = dict(found.tables)
    for key, table in tables.items():
        if "exclude" in table:
            tables[key] = {**table, "exclude": _with(getattr(profile, key).exclude, table["exclude"])}
    return f"rules {rules.where}", tables


def _with(former: Sequence[str], more: Sequence[str]) -> list[str]:
    return [*dict.fromkeys((*former, *more))]
