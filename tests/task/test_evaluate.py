"""Images are run in batches that follow from their size."""

import pytest
import torch

from nacdeploy.data.sets import ImageSet
from nacdeploy.task import evaluate


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(8, 8, 256), (32, 32, 256), (128, 128, 32), (224, 224, 8), (4096, 4096, 1)]
)
def test_batch_holds_fewer_images_the_larger_they_are(height: int, width: int, expected: int) -> None:
    images = torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(2, 3, height, width)
    assert evaluate.batch_size(ImageSet(images, torch.zeros(2, dtype=torch.long))) == expected
