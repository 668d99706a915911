"""An artifact as one tar: the same bytes from every copy, checked before and after, and hostile tars refused."""

import io
import json
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

import pytest
from command_line import files, refused_line, run, succeed

import nacdeploy

ARTIFACT = Path("runs/export-ort-1")


def copied(to: str) -> Path:
    """A copy of the artifact with its files made in another order, at other times, with other modes and owners."""
    for path in sorted(ARTIFACT.iterdir(), reverse=True):
        place = Path(to) / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
        place.chmod(0o700)
        os.utime(place, (1, 1))
        if os.geteuid() == 0:
            os.chown(place, 1234, 4321)
    return Path(to)


def made(path: Path, *members: tuple[tarfile.TarInfo | str, bytes]) -> Path:
    """A tar of the members in order."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for about, content in members:
            info = tarfile.TarInfo(about) if isinstance(about, str) else about
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def members() -> list[tuple[tarfile.TarInfo | str, bytes]]:
    """The members of a tar of the artifact."""
    return [(f"artifact/{path.name}", path.read_bytes()) for path in sorted(ARTIFACT.iterdir())]


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    about = tarfile.TarInfo(name)
    about.type, about.linkname = kind, target
    return about, b""


def test_two_copies_of_an_artifact_give_the_same_bytes_and_verify(home: Path) -> None:
    done = succeed("package", ARTIFACT)
    assert f"package: {(ARTIFACT.parent / 'export-ort-1.tar').absolute()}" in done.out
    other = nacdeploy.package(copied("elsewhere/another"), "other.tar")
    assert Path("runs/export-ort-1.tar").read_bytes() == Path("other.tar").read_bytes()
    assert other.sha256 in done.out and other.left_out == ()
    with tarfile.open("other.tar") as tar:
        assert {(m.uid, m.gid, m.uname, m.gname, m.mtime, m.mode) for m in tar} == {(0, 0, "", "", 0, 0o644)}
        assert tar.getnames()[0] == "artifact/manifest.json"
    found = succeed("verify", "other.tar", "--json").json
    assert found == {**succeed("verify", ARTIFACT, "--json").json, "artifact": "other.tar"}


def test_unpacked_tar_is_the_artifact(home: Path) -> None:
    succeed("package", ARTIFACT, "--out", "new/a.tar")
    shutil.unpack_archive("new/a.tar", "unpacked", filter="data")
    contents = [{p.name: p.read_bytes() for p in folder.iterdir()} for folder in (ARTIFACT, Path("unpacked/artifact"))]
    assert contents[0] == contents[1]


def test_file_without_a_hash_is_left_out_and_named(home: Path) -> None:
    succeed("package", ARTIFACT, "--out", "a.tar")
    (ARTIFACT / "notes.txt").write_text("mine")
    assert "note: notes.txt is not in it" in succeed("package", ARTIFACT, "--out", "b.tar").out
    assert Path("a.tar").read_bytes() == Path("b.tar").read_bytes()


def test_damaged_artifact_is_not_packaged(home: Path) -> None:
    with (ARTIFACT / "model.onnx").open("ab") as file:
        file.write(b" ")
    before = files()
    done = run("package", ARTIFACT, "--out", "a.tar")
    assert (done.code, files()) == (1, before)
    assert "model.onnx is damaged" in refused_line(done)


def test_package_overwrites_nothing(home: Path) -> None:
    Path("a.tar").write_text("mine")
    assert "a.tar exists already" in refused_line(run("package", ARTIFACT, "--out", "a.tar"))
    assert "exists already" in refused_line(run("package", ARTIFACT, "--out", ARTIFACT / "model.onnx"))
    assert run("package", "runs/search-1").code == 2
    assert Path("a.tar").read_text() == "mine"


def test_tar_of_another_tool_verifies_and_damage_in_it_is_named(home: Path) -> None:
    everything = members()
    folder = special("artifact", tarfile.DIRTYPE)
    assert run("verify", made(Path("a.tar"), folder, *everything)).code == 0
    spoilt = [(name, content[:-1] + b"?" if "model.onnx" in str(name) else content) for name, content in everything]
    line = refused_line(run("verify", made(Path("b.tar"), *spoilt)))
    assert "b.tar/artifact/model.onnx is damaged" in line
    line = refused_line(run("verify", made(Path("c.tar"), *[m for m in everything if "model.onnx" not in str(m[0])])))
    assert "c.tar/artifact/model.onnx is missing" in line


@pytest.mark.parametrize(
    ("added", "said"),
    [
        (("../outside", b"x"), "lies outside the artifact"),
        (("/tmp/nacdeploy-outside", b"x"), "lies outside the artifact"),
        (("artifact/../../outside", b"x"), "lies outside the artifact"),
        (("artifact\\..\\outside", b"x"), "lies outside the artifact"),
        (("artifact/two\nlines", b"x"), "lies outside the artifact"),
        (special("artifact/link", tarfile.SYMTYPE, "/etc"), "is no plain file"),
        (special("artifact/link", tarfile.LNKTYPE, "artifact/model.onnx"), "is no plain file"),
        (special("artifact/pipe", tarfile.FIFOTYPE), "is no plain file"),
        (special("artifact/device", tarfile.CHRTYPE), "is no plain file"),
        (("artifact/" + 200 * "a", b"x"), "is no plain file"),
        (("artifact/model.onnx", b"x"), "'artifact/model.onnx' twice"),
        (("artifact/model.onnx/inside", b"x"), "twice"),
        (("artifact", b"x"), "twice"),
        (("artifact/more.txt", b"x"), "'artifact/more.txt', which its manifest.json does not name"),
        (("more.txt", b"x"), "'more.txt', which its manifest.json does not name"),
        (("second/manifest.json", b"{}"), "more than one artifact"),
    ],
)
def test_hostile_member_is_refused_in_one_line_and_nothing_is_left(
    added: tuple[tarfile.TarInfo | str, bytes],
    said: str,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(Path("temporary").absolute()))
    tar = made(Path("a.tar"), *members(), added)
    before = files()
    done = run("verify", tar)
    assert (done.code, done.out) == (2, "")
    assert said in refused_line(done)
    assert files() == before
    assert not Path("../outside").exists() and not Path("/tmp/nacdeploy-outside").exists()


def test_size_that_is_not_there_is_refused(home: Path) -> None:
    about = tarfile.TarInfo("artifact/model.onnx")
    for size in (1000, 2**40):
        about.size = size
        Path("a.tar").write_bytes(about.tobuf(tarfile.GNU_FORMAT) + bytes(600))
        assert "is cut short: 'artifact/model.onnx'" in refused_line(run("verify", "a.tar"))
    about.size = -1
    Path("a.tar").write_bytes(about.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    assert "is cut short" in refused_line(run("verify", "a.tar"))


def test_every_cut_of_a_tar_is_refused(home: Path) -> None:
    succeed("package", ARTIFACT, "--out", "a.tar")
    content = Path("a.tar").read_bytes()
    end = len(content.rstrip(b"\0"))
    for n_bytes in (0, 1, 511, 512, 1024, end // 2, end - 1):
        Path("cut.tar").write_bytes(content[:n_bytes])
        assert "cut.tar" in refused_line(run("verify", "cut.tar")), n_bytes
    Path("longer.tar").write_bytes(content + content)
    assert "behind its end" in refused_line(run("verify", "longer.tar"))


def test_file_that_is_no_tar_is_refused(home: Path) -> None:
    Path("a.tar").write_bytes(os.urandom(4096))
    assert "is no tar, or damaged" in refused_line(run("verify", "a.tar"))
    assert "holds no artifact" in refused_line(run("verify", made(Path("b.tar"), ("readme", b"x"))))
    done = run("verify", "tiny.toml")
    assert done.code != 0 and "tar" in refused_line(done)


def test_manifest_that_leads_outside_the_tar_is_refused(home: Path) -> None:
    Path("secret").write_text("mine")
    manifest = json.loads((ARTIFACT / "manifest.json").read_text())
    manifest["files"]["../secret"] = "0"
    content = json.dumps(manifest).encode()
    changed = [(name, content if "manifest" in str(name) else old) for name, old in members()]
    assert "lies outside the artifact" in refused_line(run("verify", made(Path("a.tar"), *changed)))
