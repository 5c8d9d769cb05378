"""A teacher of the user's own: the page's example runs, and every mistake is one line."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.command_line import fail, succeed
from fakes import MemoryFrames
from kitti_helpers import write_kitti, write_split

from tiekd_cache.data.places import default_store_path
from tiekd_cache.errors import ConfigError, DataError, ShapeError, TiekdError
from tiekd_cache.precompute import PrecomputeConfig, precompute
from tiekd_cache.store import open_store
from tiekd_cache.teachers import load_teacher

PAGE = Path(__file__).resolve().parents[1] / "docs" / "teachers.md"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory from which modules are imported, and forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def example() -> str:
    found = re.search(r"<!-- example: my_teacher.py -->\n```python\n(.*?)```", PAGE.read_text(), re.S)
    assert found is not None
    return found.group(1)


def test_the_pages_example_fills_a_store_and_is_verified(here: Path) -> None:
    assert example().count("\n") <= 22
    (here / "my_teacher.py").write_text(example())
    write_kitti(here / "data" / "kitti", depth=False)
    write_split(here / "split.txt", none=())
    succeed("precompute", "--teacher", "my_teacher:build", "--split", "split.txt", "--device", "cpu", cwd=here)
    store = here / "stores" / "my_teacher-build.zarr"
    opened = open_store(store)
    assert (len(opened), opened.schema.native_size, opened.schema.teacher["name"]) == (3, (176, 608), "brightness")
    check = ["verify", store, "--against-teacher", "2", "--split", "split.txt", "--device", "cpu"]
    assert "Name one of your own with --teacher" in fail(*check, cwd=here)
    found = succeed(*check, "--teacher", "my_teacher:build", "--json", cwd=here).json
    assert found["teacher"]["problems"] == []


def test_the_factory_gets_what_it_asks_for(here: Path) -> None:
    code = example() + "\ndef asks(weights, device):\n    found = Brightness()\n    found.given = weights, device\n"
    (here / "asking.py").write_text(code + "    return found\n\ndef takes_all(**given):\n    return asks(**given)\n")
    for name in ("asking:asks", "asking:takes_all"):
        teacher = load_teacher(name, weights="my.pth")
        assert [str(value) for value in teacher.given] == ["my.pth", "cpu"]  # type: ignore[attr-defined]
    assert load_teacher("asking:Brightness").name == "brightness"


MISTAKES = """
import math
from tiekd_cache.errors import DataError
from tiekd_cache.teachers import Teacher
class Unnamed(Teacher):
    digest = device = predict = None
number = 3
def fails(): raise KeyError("no\\nsuch")
def data(): raise DataError("one line of its own")
def other(): return math
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.at_all:build", 'no module "nowhere"'),
        ("mistakes.below:build", "mistakes.below"),
        ("mistakes:absent", r'mistakes\.py\) has no "absent"'),
        ("mistakes:number", "number is a int, not a function or class"),
        ("mistakes:fails", "the factory raised KeyError: 'no"),
        ("mistakes:other", r"gave a module, not a tiekd_cache\.teachers\.Teacher"),
        ("mistakes:Unnamed", "its name must be a text"),
        ("mistakes:Teacher", "the factory raised TypeError: Can't instantiate abstract class"),
        ("broken:build", "importing broken failed: ZeroDivisionError: division by zero"),
        ("needing:build", "importing needing failed: ModuleNotFoundError: No module named 'unheard_of'"),
        ("mistakes:", r"named package\.module:factory"),
        ("..:x", r"Teacher \.\.:x"),
    ],
)
def test_mistakes_are_one_line(here: Path, name: str, message: str) -> None:
    (here / "mistakes.py").write_text(MISTAKES)
    (here / "broken.py").write_text("1 / 0\n")
    (here / "needing.py").write_text("import unheard_of\n")
    with pytest.raises(ConfigError, match=message) as caught:
        load_teacher(name)
    assert "\n" not in str(caught.value)


def test_depth_of_another_shape_stops_stage_one(here: Path) -> None:
    (here / "flat.py").write_text(example().replace("TeacherDepth(small,", "TeacherDepth(small[:, 0],"))
    teacher = load_teacher("flat:build")
    with pytest.raises(ShapeError, match=r"must be \[B,1,h,w\], not \[1, 32, 48\]"):
        precompute(teacher, MemoryFrames(1), here / "a.zarr", PrecomputeConfig())


@pytest.mark.parametrize(
    ("instead", "message"),
    [
        ("raise ValueError('no\\nsense')", r"failed at frame drive_0000/\S+0: ValueError: no \(.*wrong\.py:13\)"),
        ("torch.nn.functional.avg_pool2d(depth, 999)", r"RuntimeError: .* \(.*wrong\.py:13\)\. Mend it there"),
        ("return depth", r"brightness gave a Tensor, not a tiekd_cache\.teachers\.TeacherDepth"),
        (
            "return TeacherDepth(depth[:1])",
            r"gave depth \[1, 1, 64, 96\] for [24] images .* \[[24],1,h,w\]",
        ),
        ("return TeacherDepth(depth[..., :0])", r"gave depth \[1, 1, 64, 0\] for 1 images"),
    ],
)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_what_it_does_wrong_with_images_is_one_line(here: Path, instead: str, message: str, precision: str) -> None:
    (here / "wrong.py").write_text(example().replace("small = torch", f"{instead}\n        small = torch"))
    config = PrecomputeConfig(batch_size=2, precision=precision)
    with pytest.raises(TiekdError, match=message) as caught:
        precompute(load_teacher("wrong:build"), MemoryFrames(3), here / "a.zarr", config)
    assert "\n" not in str(caught.value)


def test_its_own_errors_pass_and_needless_weights_do_not(here: Path) -> None:
    (here / "mistakes.py").write_text(MISTAKES)
    with pytest.raises(DataError, match="one line of its own"):
        load_teacher("mistakes:data")
    with pytest.raises(ConfigError, match=r"takes no weights, but got my\.pth"):
        load_teacher("mistakes:fails", weights="my.pth")


def test_installed_packages_offer_teachers_by_name(here: Path) -> None:
    (here / "offering.py").write_text(example())
    offered = here / "offering-1.0.dist-info"
    offered.mkdir()
    (offered / "METADATA").write_text("Metadata-Version: 2.1\nName: offering\nVersion: 1.0\n")
    (offered / "entry_points.txt").write_text(
        "[tiekd_cache.teachers]\nbrightness = offering:build\nlost = offering:gone\nlidar = offering:gone\n"
    )
    sys.path.insert(0, str(here))
    assert load_teacher("brightness").architecture == "brightness_v1"
    assert load_teacher("lidar").architecture == "lidar_delaunay"
    with pytest.raises(ConfigError, match=r'Teacher "lost" \(offering:gone\) cannot be imported'):
        load_teacher("lost")
    with pytest.raises(ConfigError, match=r"Teachers are bts.*brightness.*hf:ORG/NAME.*package\.module:factory"):
        load_teacher("unheard_of")


@pytest.mark.parametrize(
    ("teacher", "name"),
    [
        ("bts", "bts.zarr"),
        ("hf:org/Name-v2.1", "hf-org-Name-v2.1.zarr"),
        ("hf:../models/dpt/", "hf-models-dpt.zarr"),
        ("pkg.mod:factory", "pkg.mod-factory.zarr"),
        ("../..", "teacher.zarr"),
    ],
)
def test_default_stores_have_plain_names(teacher: str, name: str) -> None:
    assert default_store_path(teacher) == Path("stores") / name
