"""Images in a store come back to the bit or not at all, whatever happens, and never stand in the responses' way."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from fakes import FormulaTeacher, MemoryFrames
from store_helpers import files_of, in_child, make_store

from tiekd_cache.data.frame import Frame
from tiekd_cache.errors import FrameNotFoundError, ShapeError, StoreError
from tiekd_cache.image_filling import fill_images
from tiekd_cache.precompute import PrecomputeConfig, make_shard, open_writer, precompute
from tiekd_cache.store import ImageWriter, ResponseStore, open_store, verify_store
from tiekd_cache.store.images import decode_image, encode_image, images_summary
from tiekd_cache.store.kernels import NumpyKernels, kernels

COUNT = 6
CONFIG = PrecomputeConfig(shard_frames=2, batch_size=2, with_images=True)
SOURCE = MemoryFrames(COUNT)


@pytest.fixture
def path(store_with_images: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return shutil.copytree(store_with_images, tmp_path / "a.zarr")


def shard_file(path: Path, shard: int = 1) -> Path:
    return path / "images" / "image" / "c" / str(shard) / "0" / "0" / "0"


def check_all(path: Path, frame_ids: Sequence[str] = SOURCE.frame_ids) -> None:
    store = open_store(path, allow_partial=True)
    for frame_id in frame_ids:
        frame = SOURCE.load(frame_id)
        np.testing.assert_array_equal(store.image(frame_id), frame.image)
        np.testing.assert_array_equal(store.intrinsics(frame_id), frame.intrinsics)


def test_images_and_intrinsics_come_back_to_the_bit(path: Path) -> None:
    check_all(path)
    assert all(open_store(path).has_image(frame_id) for frame_id in SOURCE.frame_ids)
    assert not open_store(path).has_image("elsewhere")
    report = verify_store(path)
    assert (report.problems, report.notes, report.frames_checked) == ((), (), COUNT)


def test_the_summary_counts_what_is_there(path: Path) -> None:
    said = images_summary(path)
    assert said is not None
    total = sum(shard_file(path, shard).stat().st_size for shard in range(3))
    assert said == {"frames": COUNT, "bytes": total, "bytes_per_frame": round(total / COUNT, 1)}
    (path / "images" / "done" / "00000.json").unlink()
    fewer = images_summary(path)
    assert fewer is not None
    assert (fewer["frames"], fewer["bytes"]) == (4, total - shard_file(path, 0).stat().st_size)
    shutil.rmtree(path / "images")
    assert images_summary(path) is None


def test_the_responses_are_those_of_a_store_without_images(path: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.zarr"
    precompute(FormulaTeacher(), SOURCE, plain, PrecomputeConfig(shard_frames=2, batch_size=2))
    with_images, without = open_store(path), open_store(plain)
    assert with_images.schema.fingerprint == without.schema.fingerprint
    ours = {name: data for name, data in files_of(path).items() if name.startswith(("residual", "digest", "frame_id"))}
    assert ours.items() <= files_of(plain).items()
    shutil.rmtree(path / "images")
    assert open_store(path).read(SOURCE.frame_ids).tobytes() == without.read(SOURCE.frame_ids).tobytes()
    with pytest.raises(FrameNotFoundError, match=r"has no image of frame .*--with-images"):
        open_store(path).image(SOURCE.frame_ids[0])


def test_zarr_python_reads_them_and_a_sum_undoes_the_coding(path: Path) -> None:
    group: Any = zarr.open_group(path / "images", mode="r")
    assert group.attrs["content"]["coding"] == "left difference"
    left_over: Any = zarr.open_array(path / "images" / "image", mode="r")
    assert (left_over.shape, left_over.chunks) == ((COUNT, 3, *SOURCE.image_size), (1, 3, *SOURCE.image_size))
    for i, frame_id in enumerate(SOURCE.frame_ids):
        image = left_over[i].cumsum(axis=-1, dtype="u1").transpose(1, 2, 0)  # the format, written out once more
        frame = SOURCE.load(frame_id)
        np.testing.assert_array_equal(image, frame.image)
        np.testing.assert_array_equal(group["intrinsics"][i], frame.intrinsics)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (9, 70), (12, 20)])
def test_any_image_survives_the_coding_by_either_loop(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), np.uint8)
    chunk = encode_image(image)
    np.testing.assert_array_equal(decode_image(chunk, shape), image)
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    differences = np.diff(planes, axis=2, prepend=np.zeros((3, shape[0], 1), np.uint8))
    for loops in (NumpyKernels(), kernels()):
        summed = np.empty_like(image)
        loops.image(differences, summed)
        np.testing.assert_array_equal(summed, image)


def test_images_are_added_to_a_store_that_has_none(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    precompute(FormulaTeacher(), SOURCE, path, PrecomputeConfig(shard_frames=2, batch_size=2))
    before = files_of(path)
    said: list[str] = []
    report = precompute(FormulaTeacher(), SOURCE, path, CONFIG, note=said.append)
    assert report.made == 0
    assert f"Storing {COUNT} images first" in said
    assert files_of(path).items() >= before.items()
    check_all(path)


def test_a_killed_writer_loses_nothing_and_make_shard_resumes(tmp_path: Path) -> None:
    path, teacher = tmp_path / "a.zarr", FormulaTeacher()
    writer = open_writer(teacher, SOURCE, path, CONFIG)
    make_shard(writer, teacher, SOURCE, CONFIG, 0)

    class Deadly(MemoryFrames):
        def load(self, frame_id: str, *, with_gt: bool = False) -> Frame:
            if frame_id == SOURCE.frame_ids[3]:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().load(frame_id, with_gt=with_gt)

    pid = in_child(lambda: make_shard(writer, teacher, Deadly(COUNT), CONFIG, 1))
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert sorted(ImageWriter.open(path).todo()) == [1, 2]
    check_all(path, SOURCE.frame_ids[:2])
    for shard in (2, 1, 0):
        make_shard(writer, teacher, SOURCE, CONFIG, shard)
    check_all(path)
    assert verify_store(path).problems == ()


def test_a_shard_in_other_hands_is_left_to_them(path: Path) -> None:
    shutil.rmtree(path / "images")
    mine, theirs = ImageWriter.open(path), ImageWriter.open(path)
    with mine.claim(0) as free:
        assert free
        with theirs.claim(0) as again:
            assert not again
    with theirs.claim(0) as again:
        assert again
    said: list[str] = []
    with mine.claim(0), mine.claim(2):
        assert fill_images(theirs, SOURCE, range(3), note=said.append) == 2
    assert "Images of 2 shards are left to other processes" in said[1]
    assert theirs.todo() == [0, 2]


def wrong_image(path: Path, frame_id: str) -> str | None:
    """The error of reading an image; None where it is read, and right."""
    try:
        image = open_store(path).image(frame_id)
    except StoreError as error:
        return str(error) if frame_id in str(error) else "names no frame"
    np.testing.assert_array_equal(image, SOURCE.load(frame_id).image)
    return None


@pytest.mark.parametrize("place", [0.0, 0.3, 0.7, 0.999])
def test_a_flipped_bit_is_an_error_that_verify_finds_and_precompute_mends(path: Path, place: float) -> None:
    data = bytearray(shard_file(path).read_bytes())
    data[int(place * len(data))] ^= 4
    shard_file(path).write_bytes(data)
    errors = [error for frame_id in SOURCE.frame_ids[2:4] if (error := wrong_image(path, frame_id))]
    assert errors
    assert all(str(shard_file(path)) in error for error in errors)
    assert open_store(path).read(SOURCE.frame_ids).shape == (COUNT, *SOURCE.image_size)
    report = verify_store(path)
    assert report.problems
    assert all(str(shard_file(path)) in line for line in report.problems)
    assert verify_store(path, repair=True).whole
    assert ImageWriter.open(path).todo() == [1]
    precompute(FormulaTeacher(), SOURCE, path, CONFIG)
    check_all(path)
    assert verify_store(path).problems == ()


@pytest.mark.parametrize("name", ["image/c/1/0/0/0", "intrinsics/c/1/0/0", "done/00001.json"])
def test_what_is_missing_truncated_or_another_shards_is_an_error(path: Path, name: str) -> None:
    file = path / "images" / name
    whole, others = file.read_bytes(), (path / "images" / name.replace("1", "2")).read_bytes()
    frame_id = SOURCE.frame_ids[2]

    def read(store: ResponseStore) -> None:
        store.image(frame_id)
        store.intrinsics(frame_id)

    def must_fail() -> None:
        store = open_store(path)
        with pytest.raises(StoreError):
            read(store)
        assert verify_store(path).problems

    file.write_bytes(whole[: len(whole) // 2])
    must_fail()
    if name != "intrinsics/c/1/0/0":  # all frames of one camera have the same
        file.write_bytes(others)
        must_fail()
    if "done" not in name:
        file.unlink()
        must_fail()
    file.write_bytes(whole)
    check_all(path)


def test_damaged_metadata_stop_the_images_and_not_the_responses(path: Path) -> None:
    file = path / "images" / "zarr.json"
    group = json.loads(file.read_bytes())
    group["attributes"]["content"]["dataset"]["frames_digest"] = "0" * 64
    for text in (json.dumps(group), "{", "[]"):
        file.write_text(text)
        store = open_store(path)
        assert store[SOURCE.frame_ids[0]].shape == SOURCE.image_size
        with pytest.raises(StoreError, match=r"Images of store .* are damaged.*remove the folder"):
            store.image(SOURCE.frame_ids[0])
        assert len(verify_store(path).problems) == 1


def test_images_of_other_frames_are_refused(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.zarr"
    make_store(other)
    shutil.copytree(path / "images", other / "images")
    with pytest.raises(StoreError, match="not those of this store's frames"):
        ImageWriter.open(other)
    writer = ImageWriter.open(path)
    with pytest.raises(ShapeError, match=r"Image of frame f is uint8 \[3, 4, 3\]"):
        writer.encode("f", np.zeros((3, 4, 3), np.uint8), np.eye(3))
    with pytest.raises(ShapeError, match="1 images for the 2 frames"):
        writer.write_shard(0, [writer.encode("f", SOURCE.load(SOURCE.frame_ids[0]).image, np.eye(3))])


def test_a_disk_that_lies_is_found_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(path / "images")
    writer = ImageWriter.open(path)
    images = [writer.encode(i, SOURCE.load(i).image, np.eye(3)) for i in SOURCE.frame_ids[:2]]

    def lie(file: Path, data: bytes) -> None:
        file.write_bytes(data[:40] + b"?" + data[41:])

    monkeypatch.setattr("tiekd_cache.store.image_writer.write_file", lie)
    with pytest.raises(StoreError, match="read back differently"):
        writer.write_shard(0, images)
    assert not shard_file(path, 0).exists()
    assert 0 in writer.todo()
