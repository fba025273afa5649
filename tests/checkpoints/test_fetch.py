"""Published files by URL, from a server on this machine: whole and checked, or not there at all."""

import models_mm  # isort: skip  # noqa: F401  (before mmdet, which needs it)

import hashlib
import http.server
import multiprocessing
import threading

import pytest
import torch

from models_mm import catalogue as zoo
from models_mm import create_backbone
from models_mm.backbones import recnext
from models_mm.checkpoints import fetch as fetching
from models_mm.checkpoints.fetch import fetch
from models_mm.checkpoints.loading import load_pretrained
from models_mm.cli import zoo as tool
from models_mm.errors import CheckpointError, UserError

NAME = "recnext_m3_distill_300e.pth"


class Site:
    """Answers with files by path; ``break_off`` of the next answers end in the middle."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.break_off = 0
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                site.asked.append(self.path)
                content = site.files.get(self.path)
                if content is None:
                    return self.send_error(404)
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if site.break_off:
                    site.break_off -= 1
                    content = content[: len(content) // 2]
                self.wfile.write(content)
                return None

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def site():
    site = Site()
    yield site
    site.server.shutdown()
    site.server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """torch.hub's folder, and next to no pause between attempts."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setattr(fetching, "PAUSE", 0.01)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub/checkpoints"


def visible(folder) -> list[str]:
    found = folder.rglob("*") if folder.exists() else ()
    return sorted(f.name for f in found if f.is_file() and not f.name.endswith(".lock"))


@pytest.fixture(scope="module")
def weights() -> dict:
    torch.manual_seed(3)
    return create_backbone("recnext_m3").state_dict()


@pytest.fixture(scope="module")
def published(weights, tmp_path_factory) -> bytes:
    """RecNeXt's file, with the classifier of the training."""
    file = tmp_path_factory.mktemp("published") / NAME
    classifier = {"head.head.linear.weight": torch.zeros(10, 512)}
    torch.save({"model": weights | classifier}, file)
    return file.read_bytes()


def test_a_pretrained_backbone_is_fetched_once(site, cache, published, weights, monkeypatch):
    monkeypatch.setattr(recnext, "RELEASES", site.address)
    site.files[f"/v1.0/{NAME}"] = published
    for _ in range(2):
        backbone = create_backbone("recnext_m3", pretrained=True)
        assert all(torch.equal(v, weights[k]) for k, v in backbone.state_dict().items())
    assert site.asked == [f"/v1.0/{NAME}"]
    assert visible(cache.parent.parent) == [NAME] == visible(cache)


def test_the_series_have_releases_of_their_own():
    assert recnext.RecNeXt.published.url(NAME).endswith(f"releases/download/v1.0/{NAME}")
    assert "/v2.0/" in recnext.RecNeXt.published.url("recnext_a3_distill_300e.pth")


@pytest.mark.parametrize("name", ["biformer_small", "dfvt_t", "mpvit_tiny", "kw1x_resnet50"])
def test_files_without_an_address_say_where_they_are_published(name):
    with pytest.raises(UserError, match=r"has no fixed address: it is published at https://git"):
        create_backbone(name, pretrained=True)


def test_what_was_never_published_is_said():
    with pytest.raises(UserError, match="KW_ResNet is no published variant"):
        create_backbone("KW_ResNet", pretrained=True)


@pytest.mark.parametrize("content", ["another", "page", "cut", "evil"])
def test_wrong_content_is_not_kept(site, cache, published, monkeypatch, content, tmp_path):
    """Another model's file, a page of HTML, a file that was cut where it lies, one with code."""
    other, evil = tmp_path / "other.pth", tmp_path / "evil.pth"
    torch.save({"model": {"stem.weight": torch.zeros(3)}}, other)
    torch.save({"model": Evil()}, evil)
    bad = {"another": other.read_bytes(), "page": b"<html>sign in</html>"}
    bad |= {"cut": published[: len(published) // 2], "evil": evil.read_bytes()}
    monkeypatch.setattr(recnext, "RELEASES", site.address)
    site.files[f"/v1.0/{NAME}"] = bad[content]
    with pytest.raises(CheckpointError, match=f"{site.address}/v1.0/{NAME} is not what was exp"):
        create_backbone("recnext_m3", pretrained=True)
    assert visible(cache) == [] and not (tmp_path / "ran").exists()
    site.files[f"/v1.0/{NAME}"] = published  # mended: the next call takes it
    create_backbone("recnext_m3", pretrained=True)


class Evil:
    def __reduce__(self):
        return __import__("os").mkdir, ("ran",)


def test_a_download_that_breaks_off_is_tried_again(site, cache):
    site.files["/file.bin"] = bytes(range(256)) * 100
    site.break_off = 2
    assert fetch(f"{site.address}/file.bin").read_bytes() == site.files["/file.bin"]
    assert len(site.asked) == 3


def test_a_download_that_always_breaks_off_leaves_nothing(site, cache):
    site.files["/file.bin"] = b"x" * 1000
    site.break_off = 3
    with pytest.raises(CheckpointError, match=r"500 of 1,000 bytes arrived.*put it at .*file.bin"):
        fetch(f"{site.address}/file.bin")
    assert visible(cache) == []
    assert fetch(f"{site.address}/file.bin").stat().st_size == 1000


def test_what_a_killed_download_left_is_not_taken_for_the_file(site, cache):
    site.files["/file.bin"] = b"x" * 1000
    cache.mkdir(parents=True)
    (cache / ".part.file.bin").write_bytes(b"y" * 2000)
    assert fetch(f"{site.address}/file.bin").read_bytes() == b"x" * 1000
    assert visible(cache) == ["file.bin"]


def test_a_file_that_is_not_there_is_asked_for_once(site, cache):
    with pytest.raises(CheckpointError, match="none.pth cannot be downloaded .HTTP Error 404"):
        fetch(f"{site.address}/none.pth")
    assert len(site.asked) == 1 and visible(cache) == []


def test_a_server_that_is_not_there(cache):
    with pytest.raises(CheckpointError, match="cannot be downloaded"):
        fetch("http://127.0.0.1:9/file.pth")


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://127.0.0.1/", "http://127.0.0.1/.."]
)
def test_other_addresses_are_refused(url, tmp_path):
    with pytest.raises(CheckpointError, match="is no address of a file"):
        fetch(url)
    assert visible(tmp_path) == []


def test_nothing_is_written_outside_the_folder(site, cache, tmp_path):
    for path in ("/..%2f..%2fout.bin", "/a/../../out.bin", "/%2e%2e/%2e%2e/out.bin"):
        site.files[path] = b"x"
        fetch(site.address + path)
    assert {f.parent for f in tmp_path.rglob("*") if f.is_file()} == {cache}
    with pytest.raises(CheckpointError, match="is no address"):
        fetch(f"{site.address}/x", file_name="../x")


def test_a_known_digest_is_checked(site, cache):
    site.files["/file.bin"] = b"content"
    with pytest.raises(CheckpointError, match="is not the file that it was"):
        fetch(f"{site.address}/file.bin", sha256="0123456789")
    assert visible(cache) == []
    digest = hashlib.sha256(b"content").hexdigest()
    fetch(f"{site.address}/file.bin", sha256=digest[:8])


def fetch_in_a_process(url, folder, found):
    found.put(fetch(url, folder).read_bytes())


def test_two_processes_at_once_download_once(site, cache):
    site.files["/file.bin"] = content = b"x" * 5_000_000
    spawn = multiprocessing.get_context("fork")
    found = spawn.Queue()
    jobs = [
        spawn.Process(target=fetch_in_a_process, args=(f"{site.address}/file.bin", cache, found))
        for _ in range(2)
    ]
    for job in jobs:
        job.start()
    assert [found.get(timeout=60) for _ in jobs] == [content] * 2
    for job in jobs:
        job.join(timeout=60)
    assert len(site.asked) == 1 and visible(cache) == ["file.bin"]


def test_the_tool_puts_a_config_s_weights_where_it_looks_for_them(
    site, published, weights, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(recnext, "RELEASES", site.address)
    site.files[f"/v1.0/{NAME}"] = published
    tool.main(["fetch", "mask_rcnn_recnext_m3_fpn_1x_coco"])
    assert capsys.readouterr().out.strip() == f"pretrain/{NAME}"
    backbone = create_backbone("recnext_m3")
    load_pretrained(backbone, f"pretrain/{NAME}")
    assert torch.equal(
        backbone.state_dict()["stem.stem.0.conv.weight"], weights["stem.stem.0.conv.weight"]
    )


def test_an_unknown_file_is_named_with_similar_ones():
    with pytest.raises(UserError, match=f"did you mean {NAME}"):
        zoo.fetch_published("recnext_m3_distil_300e.pth")
