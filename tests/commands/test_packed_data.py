"""Shards of a WebDataset from search's data option to bench, with and without labels."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from command_line import change, refused_line, run, succeed
from PIL import Image
from sklearn.datasets import load_digits


@pytest.fixture
def shards(home: Path) -> str:
    """Two shards of digits, as a data set's name."""
    digits = load_digits()
    for shard in range(2):
        with tarfile.open(f"digits-{shard:03}.tar", "w") as archive:
            for number in range(150 * shard, 150 * shard + 150):
                content = io.BytesIO()
                Image.fromarray((digits.images[number] * 15.9).astype("uint8")).save(content, "PNG")
                for suffix, data in (("png", content.getvalue()), ("cls", str(digits.target[number]).encode())):
                    info = tarfile.TarInfo(f"{number:05}.{suffix}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    return "wds:digits-{000..001}.tar"


@pytest.mark.parametrize("in_memory_mib", [1024, 0])
def test_shards_go_from_transfer_to_bench(shards: str, in_memory_mib: int) -> None:
    change("images", in_memory_mib=in_memory_mib)
    succeed("transfer", "--strategy", "QF", "--data", shards, "--out", "made")
    succeed("export", "--from", "made", "--target", "ort", "--out", "artifact")
    rows = json.loads(succeed("bench", "artifact", "--json").out)["rows"]
    assert [row["n_images"] for row in rows] == [44, 44]


def test_missing_shard_is_one_line(shards: str) -> None:
    Path("digits-001.tar").unlink()
    done = run("transfer", "--strategy", "Q", "--data", shards)
    assert done.code == 2
    assert refused_line(done).startswith("error: there is no shard digits-001.tar; give tar files")
