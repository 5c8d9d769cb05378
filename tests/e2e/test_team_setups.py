"""The three set-ups of docs/sharing.md run as they stand there: places and teacher exchanged, training cut short."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import succeed

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from servers import nginx, s3_server  # noqa: E402
from test_docs import commands_of  # noqa: E402

from tiekd_cache.data.synthetic_kitti import write_synthetic_kitti  # noqa: E402
from tiekd_cache.store import open_store  # noqa: E402

pytest.importorskip("obstore", reason="obstore is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PAGE = (ROOT / "docs" / "sharing.md").read_text()
[SECTION] = re.findall(r"## Three set-ups\n(.*?)\n## ", PAGE, re.S)
SHARE, BUCKET, WEB = (commands_of(block) for block in re.findall(r"```bash\n.*?```", SECTION, re.S))
SHORT = {
    "distill": ["--no-pretrained", "--steps", "1", "--batch-size", "1", "--crop", "64x96", "--decoder-width", "0.125"],
    "evaluate": ["--limit-frames", "1"],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data in data/kitti and a store of them in stores/, its teacher `lidar` in the place of `bts`."""
    home = tmp_path_factory.mktemp("home")
    write_synthetic_kitti(home / "data" / "kitti", train_frames=2, test_frames=1)
    succeed("precompute", "--teacher", "lidar", "--store", "stores/lidar.zarr", cwd=home)
    return home


@pytest.fixture
def web(home: Path) -> Iterator[str]:
    (home / "www" / "stores").mkdir(parents=True)
    with nginx(home / "www" / "stores") as server:
        yield server.url


def run(commands: list[list[str]], home: Path, places: dict[str, str], **env: str) -> None:
    """Each command, with every place in it replaced by one that is there."""
    assert commands
    for words in commands:
        replaced = []
        for word in [*words, *SHORT.get(words[0], [])]:
            for name, place in {**places, "bts": "lidar"}.items():
                word = word.replace(name, place)
            replaced.append(word)
        succeed(*replaced, cwd=home, **env)


def test_a_network_share(home: Path, tmp_path: Path) -> None:
    (tmp_path / "team").mkdir()
    run(SHARE, home, {"/mnt/team": str(tmp_path / "team")})
    assert (tmp_path / "team" / "stores" / "index.html").is_file()
    assert (home / "runs" / "share" / "best.pt").is_file()


def test_a_bucket_with_a_cache(home: Path) -> None:
    with s3_server() as server:
        run(BUCKET, home, {"s3://team/stores": server.url}, **server.environment)
    assert any((home / "cache").iterdir())
    assert (home / "runs" / "bucket" / "evaluation.json").is_file()


def test_a_web_server(home: Path, web: str) -> None:
    run(WEB, home, {"https://stores.example.org": web, "/srv/www": str(home / "www")})
    ours, theirs = (open_store(home / folder / "lidar.zarr") for folder in ("stores", "mine"))
    assert all((ours[frame_id] == theirs[frame_id]).all() for frame_id in ours)
