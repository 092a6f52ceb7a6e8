"""Everything an extension is made of, checked before anything is written."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from css.config.settings import RunConfig
from css.extend.request import DEFAULT_METHOD, FOREIGN_METHODS, Request
from css.kinds.choice import kind_of
from css.method.contract import Method
from css.method.registry import make_method
from css.model.foreign import is_foreign
from css.report.results import read_results
from css.run.checks import require_config
from css.run.presets import from_dict
from css.run.saved import config_of, finished_task
from css.run.stream import extended_stream, make_source
from tasks import InputError, Stream, Task
from tasks.datasets.registry import full_name
from tasks.source import VOID, Source
from tasks.stream import class_ids


@dataclass(frozen=True)
class Plan:
    """An extension that can be made."""

    request: Request
    old: RunConfig  # of the model that is extended
    config: RunConfig  # of the result
    stream: Stream  # the model's tasks and the new one, in whose data alone there are images
    index: int  # of the new task
    old_results: dict[str, Any]

    @property
    def task(self) -> Task:
        """The new task."""
        return self.stream.task(self.index)

    def other(self, data: str) -> Stream:
        """The same tasks in another folder. Raises InputError if it is missing or shows no old class."""
        config = dataclasses.replace(self.config, dataset=path_of(data))
        names = self.stream.source.class_names
        stream = extended_stream(config, names, self.stream.groups, self.old_results.get("colours", []))
        old = sum(self.stream.groups[: self.index], [])
        if not any(names[class_id] in make_source(config).class_names[1:] for class_id in old if class_id):
            raise InputError(f"{data} has no class of {self.request.model}; name them alike in data.yaml.")
        return stream


def plan(request: Request, world: int) -> Plan:
    """The extension that is asked for. Raises InputError for whatever a user can mend; nothing is written."""
    results = read_results(request.model)
    old, index = config_of(request.model), finished_task(request.model, None) + 1
    kind_of(old.dataset).require_masks("css extend")
    groups = [task["new_classes"] for task in results["tasks"]]
    config = _config(request, old, groups)
    require_config(config, world)
    names, new = _numbered(request, make_source(config), results["class_names"], groups)
    stream = extended_stream(config, names, [*groups, new], results.get("colours", []))
    made = Plan(request, old, config, stream, index, results)
    method = make_method(config.method, config.options)
    _require_state(method, config.method, request, old)
    method.check_tasks(config, [made.task])
    for data in filter(None, (request.first_data, request.old_test)):
        made.other(data)
    return made


def path_of(data: str) -> str:
    """The full path of a folder, or the name of a data set."""
    return str(Path(data).resolve()) if Path(data).is_dir() else full_name(data)


def _config(request: Request, old: RunConfig, groups: list[list[int]]) -> RunConfig:
    """The settings of the model's own training, with what is new. Tasks after the first are alike in all of them."""
    if not request.classes:
        raise InputError("css extend needs --classes with at least one name.")
    if request.epochs is not None and request.epochs < 1:
        raise InputError("--epochs must be at least 1.")
    out = request.folder.resolve()
    if out == request.model.resolve():
        raise InputError(f"--out {request.folder} is the model itself; name another folder.")
    values = {
        "dataset": path_of(request.data), "protocol": f"{len(sum(groups, [])) - 1}-{len(request.classes)}",
        "method": _method(request, old), "seed": request.seed, "classes": list(request.classes),
    }  # fmt: skip
    fresh = from_dict(values, "css extend", runs=out.parent, name=out.name)
    train = dataclasses.replace(
        old.train, later_epochs=request.epochs or old.epochs(1), crop=request.crop or old.train.crop
    )
    same = {name: getattr(old, name) for name in ("model", "evaluation", "future", "void")}
    return dataclasses.replace(fresh, train=train, **same)


def _method(request: Request, old: RunConfig) -> str:
    """The one that is asked for, or the default. Raises InputError for one that the network is not made for."""
    foreign = is_foreign(old.model.encoder)
    method = request.method or (FOREIGN_METHODS[0] if foreign else DEFAULT_METHOD)
    if foreign and method not in FOREIGN_METHODS:
        raise InputError(f"--method {method} is for networks of css run; choose {' or '.join(FOREIGN_METHODS)} here.")
    return method


def _numbered(request: Request, source: Source, names: list[str],
              groups: list[list[int]]) -> tuple[list[str], list[int]]:  # fmt: skip
    """All names by raw id, and the raw ids of the new classes: those after the model's."""
    wanted = [source.class_names[own] for own in class_ids(source, request.classes, "--classes")]
    learnt = {names[class_id] for group in groups for class_id in group}
    if again := sorted(learnt & set(wanted)):
        raise InputError(
            f"--classes {again[0]!r} is a class of {request.model} already; name classes that it does not know, or "
            "rename the class in data.yaml."
        )
    names = [*names, *(name for name in wanted if name not in names)]
    if len(names) > VOID:
        raise InputError(f"{request.model} would have {len(names) - 1} classes, more than 254; extend a smaller model.")
    return names, [names.index(name) for name in wanted]


def _require_state(method: Method, name: str, request: Request, old: RunConfig) -> None:
    """Raises InputError for a method that needs what the model's own has not kept."""
    parts = set(name.split("+"))
    if method.joint or parts & {"replay", "gem", "a-gem"}:
        raise InputError(f"--method {name} needs images of old classes; choose frozen+align, plop or mib.")
    inner = getattr(method, "base", method)
    keeps = type(inner).tensors is not Method.tensors and not hasattr(inner, "alignment")
    own_head = method.own_head or make_method(old.method, old.options).own_head
    if (keeps or own_head or parts & {"s2mf", "ewf"}) and name != old.method:
        raise InputError(
            f"--method {name} cannot go on from {request.model}, which {old.method} has made with what it keeps or "
            f"adds to the network; choose {old.method}, or for another model frozen+align, frozen, plop or mib."
        )
