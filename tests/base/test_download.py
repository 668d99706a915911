"""Checkpoints from W&B. Here is no network: errors, and the checks of what would be downloaded."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.base.tracking.download import _check, fetched, is_remote

NAME = "wandb:me/nac/resnet8-digits:latest"


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_a_path_is_no_registry() -> None:
    assert is_remote(Path(NAME)) and not is_remote(Path("runs/x")) and not is_remote(None)


@pytest.mark.parametrize(
    "name", ["wandb:", "wandb:net", "wandb:me/net:v1", "wandb:a/b/c", "wandb:a/../c:v0", "wandb:a/b/c:"]
)
def test_a_wrong_spelling_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is not spelt wandb:entity/project/name:alias"):
        fetched(name, tmp_path / "downloads")


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no key of W&B: set WANDB_API_KEY"):
        fetched(NAME, tmp_path / "downloads")


def test_offline_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(UsageError, match="WANDB_MODE=offline keeps W&B offline"):
        fetched(NAME, tmp_path / "downloads")


def test_no_network_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("nacdeploy.base.tracking.download.TIMEOUT_S", 1)
    with pytest.raises(NacdeployError, match="cannot be read from W&B") as error:
        fetched(NAME, tmp_path / "downloads")
    assert "\n" not in str(error.value) and not (tmp_path / "downloads").exists()


@pytest.mark.parametrize("entry", ["../x", "/etc/x", "a/../../x", "a\\x"])
def test_files_outside_the_folder_are_refused(entry: str) -> None:
    found = SimpleNamespace(size=1, manifest=SimpleNamespace(entries={entry: None}))
    with pytest.raises(UsageError, match="outside its folder"):
        _check(found, NAME)


def test_a_large_download_is_refused() -> None:
    found = SimpleNamespace(size=2**50, manifest=SimpleNamespace(entries={}))
    with pytest.raises(UsageError, match="weights_mib"):
        _check(found, NAME)
