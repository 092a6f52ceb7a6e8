"""`prepare` against small archives of the official format, served on loopback."""

import hashlib
import io
import tarfile
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from tasks.datasets import prepare_voc
from tasks.datasets.prepare_voc import OFFICIAL, Sources, prepare
from tasks.datasets.voc import Voc, voc_palette
from tasks.errors import InputError

VOC_TRAIN, VOC_VAL = ["2007_000001", "2007_000002"], ["2007_000003", "2007_000004"]
SBD_TRAIN, SBD_VAL = ["2007_000001", "2008_000005", "2007_000003"], ["2008_000006"]
TRAIN_AUG = ["2007_000001", "2007_000002", "2008_000005", "2008_000006"]
UNUSED = "2009_000009"  # an image of VOC's other challenges, in no segmentation list
VOC_LABEL, SBD_LABEL = 7, 12


@pytest.fixture
def sources(server) -> Sources:
    write_voc_archive(server.folder / "voc.tar")
    write_sbd_archive(server.folder / "sbd.tgz")
    return Sources(
        voc_url=f"{server.url}/voc.tar",
        voc_md5=md5(server.folder / "voc.tar"),
        sbd_url=f"{server.url}/sbd.tgz",
        sbd_md5=md5(server.folder / "sbd.tgz"),
        train_images=4,
        val_images=2,
    )


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_archive(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def lines(ids: list[str]) -> bytes:
    return "".join(f"{image_id}\n" for image_id in ids).encode()


def write_voc_archive(path: Path, drop: str = "") -> None:
    mask = Image.fromarray(np.full((12, 16), VOC_LABEL, np.uint8))
    mask.putpalette(voc_palette().tobytes())
    images = sorted({*VOC_TRAIN, *VOC_VAL, *SBD_TRAIN, *SBD_VAL, UNUSED})
    files = {
        "ImageSets/Segmentation/train.txt": lines(VOC_TRAIN),
        "ImageSets/Segmentation/val.txt": lines(VOC_VAL),
        "ImageSets/Main/train.txt": lines(["2009_000009"]),
        **{f"JPEGImages/{i}.jpg": encoded(Image.new("RGB", (16, 12), (9, 99, 200)), "JPEG") for i in images},
        **{f"SegmentationClass/{i}.png": encoded(mask, "PNG") for i in VOC_TRAIN + VOC_VAL},
    }
    files.pop(drop, None)
    write_archive(path, {f"VOCdevkit/VOC2012/{name}": content for name, content in files.items()})


def write_sbd_archive(path: Path, drop: str = "") -> None:
    segmentation = np.full((12, 16), SBD_LABEL, np.uint8)
    annotation = io.BytesIO()
    savemat(annotation, {"GTcls": {"Segmentation": segmentation, "CategoriesPresent": np.array([[SBD_LABEL]])}})
    files = {f"cls/{i}.mat": annotation.getvalue() for i in SBD_TRAIN + SBD_VAL}
    files |= {"train.txt": lines(SBD_TRAIN), "val.txt": lines(SBD_VAL), "img/unused.jpg": b"not needed"}
    files.pop(drop, None)
    write_archive(path, {f"benchmark_RELEASE/dataset/{name}": content for name, content in files.items()})


def lists(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("ImageSets/Segmentation/*"))


def test_official_numbers():
    assert (OFFICIAL.train_images, OFFICIAL.val_images) == (10582, 1449)


def test_full_result(tmp_path, sources, capsys):
    root = tmp_path / "root"
    prepare(root, sources)
    source = Voc(root)
    assert [source.image_id("train", i) for i in range(4)] == TRAIN_AUG
    assert [source.image_id("test", i) for i in range(2)] == VOC_VAL
    own = [VOC_LABEL, VOC_LABEL, SBD_LABEL, SBD_LABEL]  # VOC's mask wins where both have one
    assert [int(source.load("train", i)[1].max()) for i in range(4)] == own
    assert source.presence("test")[:, VOC_LABEL].all()  # 2007_000003 is in SBD too, but belongs to val
    with Image.open(root / "SegmentationClassAug/2008_000005.png") as mask:
        assert mask.mode == "P" and mask.getpalette() == voc_palette().flatten().tolist()
    assert not (root / f"JPEGImages/{UNUSED}.jpg").exists()
    assert not list(root.rglob("*.tmp")) and lists(root) == ["train_aug.txt", "val.txt"]
    assert "4 training and 2 test images" in capsys.readouterr().out


def test_second_call_does_nothing(tmp_path, sources, server, capsys):
    prepare(tmp_path / "root", sources)
    server.gets.clear()
    prepare(tmp_path / "root", sources)
    assert server.gets == [] and "nothing to do" in capsys.readouterr().out


def test_resume_fetches_and_builds_only_what_is_missing(tmp_path, sources, server):
    root = tmp_path / "root"
    prepare(root, sources)
    (root / "ImageSets/Segmentation/train_aug.txt").unlink()
    kept, cut, lost = (root / f"JPEGImages/{i}.jpg" for i in TRAIN_AUG[:3])
    whole = kept.read_bytes()
    kept.write_bytes(bytes(len(whole)))  # of full length, so it counts as unpacked
    cut.write_bytes(whole[:50])  # killed while unpacking
    lost.unlink()
    mask = root / "SegmentationClassAug/2008_000006.png"
    mask.write_bytes(b"kept as it is")
    server.gets.clear()
    prepare(root, sources)
    assert server.gets == []  # both archives were already there with the right checksum
    assert kept.read_bytes() == bytes(len(whole)) and cut.read_bytes() == whole == lost.read_bytes()
    assert mask.read_bytes() == b"kept as it is"
    assert lists(root) == ["train_aug.txt", "val.txt"]


def test_killed_run_never_looks_finished(tmp_path, sources, monkeypatch):
    root = tmp_path / "root"

    def kill(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prepare_voc, "_read_mat", kill)
        prepare(root, sources)
    assert lists(root) == []
    with pytest.raises(InputError, match="css prepare voc"):
        Voc(root)
    prepare(root, sources)
    assert len(Voc(root).presence("train")) == 4


@pytest.mark.parametrize("damage", ["truncated", "other"])
def test_damaged_archive(tmp_path, sources, server, damage):
    path = server.folder / "sbd.tgz"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"x" * len(content))
    with pytest.raises(InputError) as caught:
        prepare(tmp_path / "root", sources)
    assert sources.sbd_url in str(caught.value) and str(tmp_path / "root/downloads/sbd.tgz") in str(caught.value)
    assert sources.sbd_md5 in str(caught.value) and lists(tmp_path / "root") == []
    path.write_bytes(content)
    prepare(tmp_path / "root", sources)  # the damaged download is replaced
    assert len(Voc(tmp_path / "root").presence("train")) == 4


def test_archive_that_cannot_be_fetched(tmp_path, sources, server):
    with pytest.raises(InputError, match=r"absent.tar cannot be downloaded.*404"):
        prepare(tmp_path / "root", replace(sources, voc_url=f"{server.url}/absent.tar"))
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as closed:
        nobody = f"http://127.0.0.1:{closed.server_port}/voc.tar"
    with pytest.raises(InputError, match=r"voc.tar cannot be downloaded.*refused"):
        prepare(tmp_path / "root", replace(sources, voc_url=nobody))


def test_archive_saved_by_hand_is_used(tmp_path, sources, server):
    downloads = tmp_path / "root" / "downloads"
    downloads.mkdir(parents=True)
    for name in ("voc.tar", "sbd.tgz"):
        (downloads / name).write_bytes((server.folder / name).read_bytes())
    prepare(tmp_path / "root", sources)
    assert server.gets == []


@pytest.mark.parametrize("wrong", [{"train_images": 5}, {"val_images": 3}])
def test_wrong_counts(tmp_path, sources, wrong):
    expected = replace(sources, **wrong)
    with pytest.raises(InputError) as caught:
        prepare(tmp_path / "root", expected)
    says = f"4 training and 2 test images instead of {expected.train_images} and {expected.val_images}"
    assert says in str(caught.value) and str(tmp_path / "root/downloads") in str(caught.value)
    assert lists(tmp_path / "root") == []


@pytest.mark.parametrize(
    "drop", ["JPEGImages/2008_000006.jpg", "SegmentationClass/2007_000004.png", "ImageSets/Segmentation/val.txt"]
)
def test_archive_without_a_listed_file(tmp_path, sources, server, drop):
    write_voc_archive(server.folder / "voc.tar", drop)
    with pytest.raises(InputError, match=f"voc.tar holds no VOCdevkit/VOC2012/{drop}"):
        prepare(tmp_path / "root", replace(sources, voc_md5=md5(server.folder / "voc.tar")))
    assert lists(tmp_path / "root") == []


@pytest.mark.parametrize("drop", ["cls/2008_000006.mat", "val.txt"])
def test_sbd_archive_without_a_listed_file(tmp_path, sources, server, drop):
    write_sbd_archive(server.folder / "sbd.tgz", drop)
    with pytest.raises(InputError, match=f"sbd.tgz (holds no|lacks) .*{drop}"):
        prepare(tmp_path / "root", replace(sources, sbd_md5=md5(server.folder / "sbd.tgz")))
    assert lists(tmp_path / "root") == []


def test_root_that_cannot_be_written(tmp_path, sources):
    (tmp_path / "root").write_text("a file")
    with pytest.raises(InputError, match="cannot be prepared"):
        prepare(tmp_path / "root", sources)


def test_full_disk(tmp_path, sources, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepare_voc, "_write_mask", full)
    with pytest.raises(InputError, match=r"No space left on device.*goes on where this run stopped"):
        prepare(tmp_path / "root", sources)
    assert lists(tmp_path / "root") == []
