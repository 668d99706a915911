"""Labels that are a network's own answers: for images without labels, or with those of other classes."""

from dataclasses import replace

from torch import Tensor

from nacdeploy.data import ImageSet
from nacdeploy.metrics import AsksBaseline, asks_the_baseline
from nacdeploy.network.network import Network
from nacdeploy.task import Task
from nacdeploy.task import evaluate as evaluation


def answered(task: Task, baseline: Network, key: str) -> Task:
    """Return the task with the answers of the FP32 network, whose content has the key `key`, as labels, if its metric
    asks for these; else the task itself. A split is answered when its labels are first read.
    """
    metric, data = task.metric, task.data
    if not asks_the_baseline(metric) or not isinstance(metric, AsksBaseline):
        return task

    def labels(images: ImageSet) -> Tensor:
        return metric.answers(evaluation.predict(baseline, data, images)).clone()

    train, validation, test = (ImageSet(split.images, labels) for split in (data.train, data.validation, data.test))
    return replace(task, data=replace(data, train=train, validation=validation, test=test, answered_by=key))
