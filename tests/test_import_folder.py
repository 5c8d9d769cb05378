"""Folders of depth files become stores: every format, every naming, and no wrong unit, size or file slips in."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fakes import MemoryFrames
from kitti_helpers import FRAMES, write_kitti, write_split

from tiekd_cache.data.frame import DepthMap
from tiekd_cache.data.kitti import KittiFrames
from tiekd_cache.data.transforms import kb_crop
from tiekd_cache.errors import ConfigError, DataError, RangeError, StoreError
from tiekd_cache.store import open_store, verify_store
from tiekd_cache.transfer import ImportConfig, ImportReport, Scale, import_folder
from tiekd_cache.transfer.depth_files import read_counts
from tiekd_cache.transfer.naming import USUAL_PATTERNS, check_pattern, file_name, find_pattern
from tiekd_cache.transfer.scale import USUAL_SCALES, unit_hint

HALF_STEP_M = 1 / 128
PNG = ImportConfig("theirs", Scale.parse("256"), shard_frames=4)
FLOATS = ImportConfig("theirs", shard_frames=4)

Write = Callable[[Path, DepthMap], None]


def write_png(path: Path, depth: DepthMap, scale: float = 256.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.rint(depth * scale).astype(np.uint16))


def write_pfm(path: Path, depth: DepthMap) -> None:
    head = f"Pf\n{depth.shape[1]} {depth.shape[0]}\n-1.0\n".encode()
    path.write_bytes(head + depth[::-1].astype("<f4").tobytes())


def write_tiff(path: Path, depth: DepthMap) -> None:
    assert cv2.imwrite(str(path), depth)


FLOAT_WRITERS: dict[str, Write] = {
    "npy": lambda path, depth: np.save(path, depth),
    "npz": lambda path, depth: np.savez_compressed(path, depth=depth),
    "tiff": write_tiff,
    "pfm": write_pfm,
}


def fill(folder: Path, source: MemoryFrames, pattern: str, write: Write = write_png) -> Path:
    """Writes the true depth of each frame."""
    for frame_id in source.frame_ids:
        path = folder / file_name(pattern, frame_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, source.depth(frame_id))
    return folder


def bring_in(tmp_path: Path, source: Any, config: ImportConfig = PNG, **other: Any) -> ImportReport:
    """The import of tmp_path/maps into tmp_path/a.zarr."""
    return import_folder(tmp_path / "maps", source, tmp_path / "a.zarr", config, **other)


def test_png_becomes_a_store_of_the_same_depth(tmp_path: Path) -> None:
    source = MemoryFrames(6)
    fill(tmp_path / "maps", source, "{drive}/{camera}/{index}.png")
    report = bring_in(tmp_path, source)
    assert (report.frames, report.made, report.scale, report.skipped) == (6, 6, "256", ())
    assert report.median_ratio == pytest.approx(1.0, abs=0.01)
    assert report.warning is None
    store = open_store(tmp_path / "a.zarr")
    for frame_id in source.frame_ids:
        assert np.abs(store[frame_id] - source.depth(frame_id)).max() <= HALF_STEP_M + 1 / 512
    schema = store.info.schema
    assert (schema.teacher["name"], schema.teacher["architecture"]) == ("theirs", "imported")
    assert "256 counts per metre" in schema.teacher["weights"]
    assert verify_store(tmp_path / "a.zarr").whole


@pytest.mark.parametrize("extension", FLOAT_WRITERS)
def test_files_of_floats_are_metres(tmp_path: Path, extension: str) -> None:
    source = MemoryFrames(2)
    fill(tmp_path / "maps", source, f"{{index}}.{extension}", FLOAT_WRITERS[extension])
    report = bring_in(tmp_path, source, FLOATS)
    assert (report.pattern, report.scale) == (f"{{index}}.{extension}", "1")
    store = open_store(tmp_path / "a.zarr")
    for frame_id in source.frame_ids:
        assert np.abs(store[frame_id] - source.depth(frame_id)).max() <= HALF_STEP_M


@pytest.mark.parametrize("pattern", USUAL_PATTERNS)
def test_usual_names_are_found(tmp_path: Path, pattern: str) -> None:
    source = MemoryFrames(3)  # one drive, one camera
    fill(tmp_path / "maps", source, f"{pattern}.png")
    found = find_pattern(tmp_path / "maps", source.frame_ids, None)
    assert [file_name(found, frame) for frame in source.frame_ids] == [
        file_name(f"{pattern}.png", frame) for frame in source.frame_ids
    ]


def test_the_flat_names_of_the_release() -> None:
    name = file_name(USUAL_PATTERNS[1] + ".png", "2011_09_26_drive_0002_sync/image_02/0000000069")
    assert name == "2011_09_26_2011_09_26_drive_0002_sync_image_02_data_0000000069.png"


def test_an_index_alone_counts_only_with_one_drive(tmp_path: Path) -> None:
    frames = ["a/image_02/1", "b/image_02/1"]
    (tmp_path / "1.png").touch()
    with pytest.raises(DataError, match=r"no file of these frames.*it holds 1\.png.*--pattern"):
        find_pattern(tmp_path, frames, None)
    with pytest.raises(ConfigError, match=r"add \{drive\}"):
        find_pattern(tmp_path, frames, "{index}.png")
    assert find_pattern(tmp_path, frames[:1], None) == "{index}.png"
    assert find_pattern(tmp_path, frames[:1], "{index}") == "{index}.png"


@pytest.mark.parametrize("pattern", ["{drive}.png", "{index", "{index}_{lens}.png", "{index:06d}.png", "{}.png"])
def test_patterns_that_make_no_sense(pattern: str) -> None:
    with pytest.raises(ConfigError, match="Pattern"):
        check_pattern(pattern)


def test_missing_files_are_listed_or_skipped(tmp_path: Path) -> None:
    source = MemoryFrames(13)
    fill(tmp_path / "maps", source, "{drive}_{camera}_{index}.png")
    gone = [source.frame_ids[i] for i in range(1, 13)]
    for frame_id in gone:
        (tmp_path / "maps" / file_name("{drive}_{camera}_{index}.png", frame_id)).unlink()
    with pytest.raises(DataError, match=r"12 of the 13 frames.*and 2 more.*--skip-missing") as caught:
        bring_in(tmp_path, source)
    assert str(caught.value).count(".png") == 10
    assert "\n" not in str(caught.value)
    report = bring_in(tmp_path, source, replace(PNG, skip_missing=True))
    assert (report.frames, len(report.skipped)) == (1, 12)
    skipped = open_store(tmp_path / "a.zarr").info.schema.dataset["skipped"]
    assert [item["frame_id"] for item in skipped] == gone


def test_a_wrong_unit_is_refused_with_the_scales_that_fit(tmp_path: Path) -> None:
    source = MemoryFrames(4)
    fill(tmp_path / "maps", source, "{index}.png", lambda path, depth: write_png(path, depth, 65535 / 80))
    with pytest.raises(DataError, match=r"3\.2 times the ground truth.*65535/80 or 1000 would fit") as caught:
        bring_in(tmp_path, source)
    assert "--trust-scale" in str(caught.value)
    assert not (tmp_path / "a.zarr").exists()
    notes: list[str] = []
    nearly = replace(PNG, scale=Scale.parse("1000"))
    import_folder(tmp_path / "maps", source, tmp_path / "b.zarr", nearly, note=notes.append)
    assert any("0.819 times" in text and "65535/80 it would be 1." in text for text in notes)
    report = bring_in(tmp_path, source, replace(PNG, trust_scale=True, max_depth=250.0))
    assert report.warning is not None
    assert "3.2 times" in report.warning


def test_without_ground_truth_the_unit_is_taken_on_trust(tmp_path: Path) -> None:
    source = MemoryFrames(2, without_gt=[0, 1])
    fill(tmp_path / "maps", source, "{index}.png", lambda path, depth: write_png(path, depth, 1000))
    notes: list[str] = []
    report = bring_in(tmp_path, source, replace(PNG, max_depth=250.0), note=notes.append)
    assert report.median_ratio is None
    assert any("taken on trust" in text for text in notes)


def test_integers_need_a_scale(tmp_path: Path) -> None:
    source = MemoryFrames(2)
    fill(tmp_path / "maps", source, "{index}.png")
    with pytest.raises(ConfigError, match="--scale 256"):
        bring_in(tmp_path, source, FLOATS)


@pytest.mark.parametrize("text", USUAL_SCALES)
def test_a_scale_is_exact_for_every_count(text: str) -> None:
    scale, counts = Scale.parse(text), np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(scale.counts(scale.metres(counts)), counts)
    tiny = np.array([1e-9], np.float32)
    assert scale.counts(tiny)[0] == 1, "what has depth must not become missing"


def test_the_stretched_range_ends_at_80_m_exactly() -> None:
    assert Scale.parse("65535/80").metres(np.array([0, 65535], np.uint16)).tolist() == [0.0, 80.0]


@pytest.mark.parametrize("text", ["", "0", "-3", "abc", "1/0", "256/1/2", "nan", "inf"])
def test_what_is_no_scale(text: str) -> None:
    with pytest.raises(ConfigError, match="no number of counts per metre"):
        Scale.parse(text)


def test_no_hint_where_the_scale_is_the_nearest() -> None:
    assert unit_hint(1.15, Scale.parse("65535/80")) is None
    assert unit_hint(1.0, Scale.parse("1000")) is None


def test_a_second_start_reads_only_what_is_missing(tmp_path: Path) -> None:
    source = MemoryFrames(10)
    fill(tmp_path / "maps", source, "{drive}_{index}.npy", FLOAT_WRITERS["npy"])
    path = tmp_path / "maps" / file_name("{drive}_{index}.npy", source.frame_ids[9])
    whole = path.read_bytes()
    bad = source.depth(source.frame_ids[9])
    bad[2, 3] = 200.0
    np.save(path, bad)
    with pytest.raises(RangeError, match=r"200 m exceeds the limit of 80 m at row 2, column 3 of .*npy.*--clip"):
        bring_in(tmp_path, source, FLOATS)
    assert len(open_store(tmp_path / "a.zarr", allow_partial=True)) == 8
    path.write_bytes(whole)
    with pytest.raises(StoreError, match="digest"):
        bring_in(tmp_path, source, FLOATS)  # other files than it was begun with
    np.save(path, bad)
    with pytest.raises(StoreError, match="clamp"):
        bring_in(tmp_path, source, replace(FLOATS, clip=True))
    with pytest.raises(RangeError):
        bring_in(tmp_path, source, FLOATS)  # resumes, and stops at the same file
    report = import_folder(tmp_path / "maps", source, tmp_path / "b.zarr", replace(FLOATS, clip=True))
    assert report.made == 10
    assert open_store(tmp_path / "b.zarr")[source.frame_ids[9]][2, 3] == 80.0
    again = import_folder(tmp_path / "maps", source, tmp_path / "b.zarr", replace(FLOATS, clip=True))
    assert (again.made, again.frames) == (0, 10)


def test_nan_is_refused_unless_it_means_missing(tmp_path: Path) -> None:
    source = MemoryFrames(1)

    def write(path: Path, depth: DepthMap) -> None:
        depth[4, 5], depth[4, 6] = np.nan, np.inf
        np.save(path, depth)

    fill(tmp_path / "maps", source, "{index}.npy", write)
    with pytest.raises(RangeError, match="--nonfinite-is-missing"):
        bring_in(tmp_path, source, replace(FLOATS, clip=True))
    report = import_folder(tmp_path / "maps", source, tmp_path / "b.zarr", replace(FLOATS, nonfinite_is_missing=True))
    assert report.frames == 1
    assert open_store(tmp_path / "b.zarr")[source.frame_ids[0]][4, 5:7].tolist() == [0.0, 0.0]


def test_whole_images_are_cropped_and_other_sizes_refused(tmp_path: Path) -> None:
    write_kitti(tmp_path / "kitti", frames=FRAMES[:2])
    source = KittiFrames.open(tmp_path / "kitti", write_split(tmp_path / "split.txt", FRAMES[:2]))
    rng = np.random.default_rng(0)
    maps = {frame_id: rng.uniform(2, 70, (375, 1242)).astype(np.float32) for frame_id in source.frame_ids}
    (tmp_path / "maps").mkdir()
    for frame_id, depth in maps.items():
        np.save(tmp_path / "maps" / file_name("{drive}_{camera}_{index}.npy", frame_id), depth)
    notes: list[str] = []
    bring_in(tmp_path, source, replace(FLOATS, trust_scale=True), note=notes.append)
    assert any("cut to kb 352x1216" in text for text in notes)
    store = open_store(tmp_path / "a.zarr")
    for frame_id, depth in maps.items():
        assert np.abs(store[frame_id] - kb_crop(depth)).max() <= HALF_STEP_M
        np.save(tmp_path / "maps" / file_name("{drive}_{camera}_{index}.npy", frame_id), depth[:370])
    with pytest.raises(DataError, match=r"370x1242 pixels.*352x1216.*375x1242"):
        import_folder(tmp_path / "maps", source, tmp_path / "b.zarr", FLOATS)


def as_bytes(save: Callable[..., None], *arrays: Any, **named: Any) -> bytes:
    buffer = io.BytesIO()
    save(buffer, *arrays, **named)
    return buffer.getvalue()


NPY = as_bytes(np.save, np.ones((6, 8), np.float32))
NPZ = as_bytes(np.savez, a=np.ones((6, 8)), b=np.zeros((6, 8)))
TIFF = bytes(cv2.imencode(".tiff", np.ones((60, 80), np.float32))[1])


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.npy", NPY[:-9], "no whole npy"),
        ("a.npy", b"", "no whole npy"),
        ("a.npy", as_bytes(np.save, np.array([{}], dtype=object)), "no whole npy"),
        ("a.npy", as_bytes(np.save, np.ones((6, 8, 3))), "one channel"),
        ("a.npy", as_bytes(np.save, np.ones((6, 8), bool)), "one channel"),
        ("a.npz", NPZ[:-40], "no whole npz"),
        ("a.npz", NPZ, "arrays a, b.*--key"),
        ("a.npz", NPY, "name it .npy"),
        ("a.tiff", TIFF[:40], "no whole TIFF|cannot be decoded"),
        ("a.tif", b"", "no whole TIFF"),
        ("a.pfm", b"Pf\n8 6\n-1\n" + bytes(100), "truncated"),
        ("a.pfm", b"PF\n8 6\n-1\n" + bytes(600), "begins with Pf"),
        ("a.png", b"", "truncated"),
    ],
)
def test_damaged_files_are_errors_that_name_them(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=words) as caught:
        read_counts(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_arrays_of_one_channel_and_chosen_ones(tmp_path: Path) -> None:
    for shape in ((1, 6, 8), (6, 8, 1), (6, 8)):
        np.save(tmp_path / "a.npy", np.ones(shape, np.float16))
        assert read_counts(tmp_path / "a.npy").shape == (6, 8)
    (tmp_path / "a.npz").write_bytes(NPZ)
    assert read_counts(tmp_path / "a.npz", "b").max() == 0
    with pytest.raises(DataError, match="there is no 'c'"):
        read_counts(tmp_path / "a.npz", "c")


def test_rows_of_a_pfm_run_from_the_bottom(tmp_path: Path) -> None:
    depth = np.arange(1, 49, dtype=np.float32).reshape(6, 8)
    write_pfm(tmp_path / "a.pfm", depth)
    np.testing.assert_array_equal(read_counts(tmp_path / "a.pfm"), depth)
    (tmp_path / "b.pfm").write_bytes(b"Pf\n8 6\n1.0\n" + depth[::-1].astype(">f4").tobytes())
    np.testing.assert_array_equal(read_counts(tmp_path / "b.pfm"), depth)


def test_a_nameless_teacher_and_an_absent_folder(tmp_path: Path) -> None:
    source: Any = MemoryFrames(1)
    with pytest.raises(DataError, match="no folder"):
        bring_in(tmp_path, source)
    with pytest.raises(ConfigError, match="--teacher"):
        bring_in(tmp_path, source, replace(PNG, teacher=" "))


def test_another_name_scale_or_file_is_another_teacher(tmp_path: Path) -> None:
    source = MemoryFrames(2)
    fill(tmp_path / "maps", source, "{index}.npy", FLOAT_WRITERS["npy"])
    digests: set[str] = set()
    configs: Sequence[ImportConfig] = (
        FLOATS,
        replace(FLOATS, teacher="other"),
        replace(FLOATS, scale=Scale.parse("1.1")),
    )
    for i, config in enumerate(configs):
        path = tmp_path / f"{i}.zarr"
        import_folder(tmp_path / "maps", source, path, config)
        digests.add(open_store(path).info.schema.teacher["digest"])
    assert len(digests) == 3


def test_ground_truth_that_cannot_be_read_is_told_and_stops_nothing(tmp_path: Path) -> None:
    class Damaged(MemoryFrames):
        def lidar_depth(self, frame_id: str) -> DepthMap | None:
            if frame_id == self.frame_ids[0]:
                raise DataError("depth.png is truncated")
            return super().lidar_depth(frame_id)

    source = Damaged(2)
    fill(tmp_path / "maps", source, "{index}.png")
    notes: list[str] = []
    report = bring_in(tmp_path, source, note=notes.append)
    assert report.frames == 2
    assert f"Ground truth of {source.frame_ids[0]} is not compared: depth.png is truncated" in notes


@pytest.mark.shared
def test_kittis_own_depth_maps_are_a_teacher_too(tmp_path: Path, shared_dir: Path) -> None:
    source = KittiFrames.open(shared_dir / "kitti_sample")
    config = replace(PNG, skip_missing=True, max_depth=120.0)
    report = import_folder(shared_dir / "kitti_sample" / "depth", source, tmp_path / "a.zarr", config)
    assert report.pattern == "{drive}/proj_depth/groundtruth/{camera}/{index}.png"
    assert (report.frames, len(report.skipped), report.median_ratio) == (12, 1, 1.0)
    store = open_store(tmp_path / "a.zarr")
    for frame_id in store:
        truth = source.lidar_depth(frame_id)
        assert truth is not None
        assert np.abs(store[frame_id] - truth).max() <= HALF_STEP_M


def test_headers_that_claim_the_impossible_are_one_line(tmp_path: Path) -> None:
    claim = b"{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999, 3)}\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(claim).to_bytes(2, "little") + claim)
    (tmp_path / "b.pfm").write_bytes(b"Pf\n2 1\nnan\n" + bytes(8))
    np.savez_compressed(tmp_path / "c.npz", depth=np.arange(4000, dtype=np.float32).reshape(40, 100))
    whole = bytearray((tmp_path / "c.npz").read_bytes())
    whole[60] ^= 0xFF
    (tmp_path / "c.npz").write_bytes(whole)
    for name, message in (("a.npy", "no whole npy"), ("b.pfm", "byte order nan"), ("c.npz", "no whole npz")):
        with pytest.raises(DataError, match=message) as caught:
            read_counts(tmp_path / name)
        assert "\n" not in str(caught.value)
