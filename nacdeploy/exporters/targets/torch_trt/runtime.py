"""The functions of target torch-trt: compile a program on the machine that will run it. Nothing here times or runs
it yet."""

from nacdeploy.exporters.targets.runtime import Built, Runtime, Source
from nacdeploy.exporters.targets.torch_trt import build


def _version() -> str:
    build.check()
    return "torch-tensorrt"


def _built(source: Source) -> Built:
    is_sparse = any(row.is_two_four for row in source.rows)
    program, compiler = build.compile_network(source.network, source.table, sparse=is_sparse)
    return Built(compiler, {build.MODEL_FILE: program})


RUNTIME = Runtime(version=_version, check=lambda table: build.check(), n_builds=lambda table: 1, build=_built)
