"""What leaves a store comes back: HDF5 bit by bit, PNG and npz within their rounding; nothing else is overwritten."""

from __future__ import annotations

import gc
import json
import resource
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from fakes import MemoryFrames
from store_helpers import (
    MAX_DEPTH,
    build_schema,
    frame_list,
    half_resolution_schema,
    make_store,
    open_writer,
    write_all,
)

from tiekd_cache.data.images import read_depth_png
from tiekd_cache.errors import DataError, RangeError, StoreError
from tiekd_cache.precompute import PrecomputeConfig, precompute
from tiekd_cache.statistics import read_statistics
from tiekd_cache.store import StoreWriter, open_store, verify_store
from tiekd_cache.store.codec import frame_digest
from tiekd_cache.transfer import ImportConfig, Scale, export_folder, export_hdf5, import_folder, import_hdf5
from tiekd_cache.transfer.export_folder import DESCRIPTION


@pytest.mark.parametrize("text", ["256", "65535/80", "100"])
def test_png16_holds_rounded_metres_and_says_its_scale(tmp_path: Path, text: str) -> None:
    make_store(tmp_path / "a.zarr")
    scale = Scale.parse(text)
    report = export_folder(tmp_path / "a.zarr", tmp_path / "out", "png16", scale)
    assert (report.frames, report.made) == (10, 10)
    store = open_store(tmp_path / "a.zarr")
    for frame_id in store:
        read = read_depth_png(tmp_path / "out" / f"{frame_id}.png", float(scale.counts_per_metre))
        assert np.abs(read - store[frame_id]).max() <= 0.5 / float(scale.counts_per_metre) + 1e-5
        np.testing.assert_array_equal(read == 0, store[frame_id] == 0)
    described = json.loads((tmp_path / "out" / DESCRIPTION).read_bytes())
    assert (described["scale"], described["invalid"]) == (text, 0)
    assert described["attributes"]["fingerprint"] == store.info.schema.fingerprint


def test_npz_holds_the_response_itself(tmp_path: Path) -> None:
    frame_ids = frame_list(5)
    writer = StoreWriter.open(tmp_path / "a.zarr", half_resolution_schema(frame_ids), frame_ids, shard_frames=2)
    write_all(writer, np.random.default_rng(0).uniform(1, 70, (5, 12, 20)).astype(np.float32))
    export_folder(tmp_path / "a.zarr", tmp_path / "out", "npz")
    store = open_store(tmp_path / "a.zarr")
    for frame_id in store:
        with np.load(tmp_path / "out" / f"{frame_id}.npz") as arrays:
            assert arrays["depth"].shape == (24, 40)
            np.testing.assert_array_equal(arrays["depth"], store[frame_id])


def test_a_second_export_writes_only_what_is_missing(tmp_path: Path) -> None:
    make_store(tmp_path / "a.zarr")
    export_folder(tmp_path / "a.zarr", tmp_path / "out", "png16")
    files = sorted((tmp_path / "out").rglob("*.png"))
    whole = files[3].read_bytes()
    files[3].unlink()
    assert export_folder(tmp_path / "a.zarr", tmp_path / "out", "png16").made == 1
    assert files[3].read_bytes() == whole


def test_other_things_are_not_overwritten(tmp_path: Path) -> None:
    make_store(tmp_path / "a.zarr")
    make_store(tmp_path / "b.zarr", count=9)
    export_folder(tmp_path / "a.zarr", tmp_path / "out", "png16")
    with pytest.raises(StoreError, match=r"another export \(scale 256, now 1000"):
        export_folder(tmp_path / "a.zarr", tmp_path / "out", "png16", Scale.parse("1000"))
    with pytest.raises(StoreError, match=r"another export \(fingerprint"):
        export_folder(tmp_path / "b.zarr", tmp_path / "out", "png16")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(StoreError, match="no export of ours"):
        export_folder(tmp_path / "a.zarr", tmp_path / "mine", "npz")
    with pytest.raises(StoreError, match="holds something else"):
        export_hdf5(tmp_path / "a.zarr", tmp_path / "mine" / "thesis.tex")
    export_hdf5(tmp_path / "a.zarr", tmp_path / "a.h5")
    with pytest.raises(StoreError, match="holds something else"):
        export_hdf5(tmp_path / "b.zarr", tmp_path / "a.h5")
    assert export_hdf5(tmp_path / "a.zarr", tmp_path / "a.h5").made == 0
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_depth_beyond_16_bits_names_the_frame_and_the_scales_that_fit(tmp_path: Path) -> None:
    make_store(tmp_path / "a.zarr")
    with pytest.raises(RangeError, match=r"frame 2011.*--scale 1000.*65\.53 m.*65535/80 or 256 or 100"):
        export_folder(tmp_path / "a.zarr", tmp_path / "out", "png16", Scale.parse("1000"))


def test_an_unfinished_store_is_not_exported(tmp_path: Path) -> None:
    open_writer(tmp_path / "a.zarr")
    with pytest.raises(StoreError, match="not finished"):
        export_folder(tmp_path / "a.zarr", tmp_path / "out", "npz")
    with pytest.raises(StoreError, match="not finished"):
        export_hdf5(tmp_path / "a.zarr", tmp_path / "a.h5")
    assert {path.name for path in tmp_path.iterdir()} == {"a.zarr"}


def test_a_frame_id_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    frame_ids = ["../../outside", "b"]
    write_all(
        StoreWriter.open(tmp_path / "a.zarr", build_schema(frame_ids), frame_ids), np.ones((2, 12, 20), np.float32)
    )
    with pytest.raises(StoreError, match="no path below a folder"):
        export_folder(tmp_path / "a.zarr", tmp_path / "out", "npz")


@pytest.mark.parametrize("max_depth", [MAX_DEPTH, 79.995, 79.9])
def test_hdf5_restores_the_store(tmp_path: Path, max_depth: float) -> None:
    frame_ids = frame_list(10)
    depth = np.random.default_rng(1).uniform(1e-3, max_depth, (10, 12, 20)).astype(np.float32)
    depth[0, 0, :4] = [0.0, 1e-3, max_depth, 1 / 128]
    schema = build_schema(frame_ids, max_depth=max_depth, clamp=None)
    write_all(StoreWriter.open(tmp_path / "a.zarr", schema, frame_ids, shard_frames=4), depth)
    report = export_hdf5(tmp_path / "a.zarr", tmp_path / "deep" / "a.h5")
    assert report.made == 10
    back = import_hdf5(tmp_path / "deep" / "a.h5", tmp_path / "b.zarr")
    assert (back.frames, back.made) == (10, 10)
    first, second = open_store(tmp_path / "a.zarr"), open_store(tmp_path / "b.zarr")
    assert first.info.schema == second.info.schema
    assert first.info.shard_frames == second.info.shard_frames
    for frame_id in first:
        np.testing.assert_array_equal(first[frame_id], second[frame_id])
    for shard in range(3):
        names = ("residual/c/{}/0/0", "digest/c/{}")
        for name in names:
            assert (tmp_path / "a.zarr" / name.format(shard)).read_bytes() == (
                tmp_path / "b.zarr" / name.format(shard)
            ).read_bytes()
    assert verify_store(tmp_path / "b.zarr").whole
    assert import_hdf5(tmp_path / "deep" / "a.h5", tmp_path / "b.zarr").made == 0


def test_hdf5_is_readable_without_us(tmp_path: Path) -> None:
    make_store(tmp_path / "a.zarr")
    export_hdf5(tmp_path / "a.zarr", tmp_path / "a.h5")
    store = open_store(tmp_path / "a.zarr")
    with h5py.File(tmp_path / "a.h5") as file:
        for place, frame_id in enumerate(file["frame_id"].asstr()[:]):
            codes = file["codes"][place]
            depth = np.where(codes == file.attrs["invalid_code"], 0, np.maximum(codes * file.attrs["step"], 1e-3))
            np.testing.assert_allclose(depth, store[frame_id], atol=1e-6)
            assert file["digest"][place] == frame_digest(codes)
        assert file.attrs["unit"] == "m"


def test_statistics_go_along(tmp_path: Path) -> None:
    from test_statistics import TruthTeacher

    source = MemoryFrames(6)
    precompute(TruthTeacher(source), source, tmp_path / "a.zarr", PrecomputeConfig(shard_frames=4))
    export_hdf5(tmp_path / "a.zarr", tmp_path / "a.h5")
    report = import_hdf5(tmp_path / "a.h5", tmp_path / "b.zarr")
    assert report.median_ratio == pytest.approx(1.0)
    assert read_statistics(tmp_path / "b.zarr") == read_statistics(tmp_path / "a.zarr")


def outcome(file: Path, store: Path) -> str:
    """What an import says, empty where it ends well."""
    try:
        import_hdf5(file, store)
    except (DataError, StoreError) as error:
        return str(error)
    return ""


def test_damaged_hdf5_is_one_error_and_no_finished_store(tmp_path: Path) -> None:
    make_store(tmp_path / "a.zarr")
    export_hdf5(tmp_path / "a.zarr", tmp_path / "a.h5")
    whole = (tmp_path / "a.h5").read_bytes()
    rng = np.random.default_rng(0)
    found = 0
    for i in range(15):
        data = bytearray(whole)
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        (tmp_path / "b.h5").write_bytes(data)
        said = outcome(tmp_path / "b.h5", tmp_path / f"{i}.zarr")
        assert "\n" not in said
        if said:
            found += 1
            continue
        other, store = open_store(tmp_path / f"{i}.zarr"), open_store(tmp_path / "a.zarr")
        assert all(np.array_equal(other[frame_id], store[frame_id]) for frame_id in store), f"flip {i} was silent"
    assert found > 0
    (tmp_path / "b.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be read"):
        import_hdf5(tmp_path / "b.h5", tmp_path / "cut.zarr")
    with pytest.raises(DataError, match="does not exist"):
        import_hdf5(tmp_path / "none.h5", tmp_path / "cut.zarr")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["depth"] = np.zeros(3)
    with pytest.raises(DataError, match="has format None"):
        import_hdf5(tmp_path / "b.h5", tmp_path / "cut.zarr")


def test_swapped_frames_in_hdf5_are_found(tmp_path: Path) -> None:
    make_store(tmp_path / "a.zarr")
    export_hdf5(tmp_path / "a.zarr", tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["codes"][2], file["codes"][3] = file["codes"][3], file["codes"][2]
    with pytest.raises(
        DataError, match=r"frame 2011_09_26_drive_0000_sync/image_02/0000000002 does not have its digest"
    ):
        import_hdf5(tmp_path / "a.h5", tmp_path / "b.zarr")
    assert len(open_store(tmp_path / "b.zarr", allow_partial=True)) == 0


@pytest.mark.parametrize(("kind", "limit"), [("hdf5", 50), ("hdf5", 6000), ("hdf5", 20000), ("npz", 400)])
def test_a_full_disk_is_one_clear_error_and_leaves_nothing_half_written(
    tmp_path: Path, kind: str, limit: int, capfd: pytest.CaptureFixture[str]
) -> None:
    make_store(tmp_path / "a.zarr", count=40)
    exporters = {
        "hdf5": lambda: export_hdf5(tmp_path / "a.zarr", tmp_path / "a.h5"),
        "npz": lambda: export_folder(tmp_path / "a.zarr", tmp_path / "out", "npz"),
    }
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(StoreError, match=r"Cannot write .*File too large.*ulimit -f") as caught:
            exporters[kind]()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    gc.collect()
    assert capfd.readouterr().err == "", "HDF5 must not complain by itself"
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*partial*"))
    assert not (tmp_path / "a.h5").exists()


def test_an_exported_folder_can_be_imported_without_a_word_on_its_scale(tmp_path: Path) -> None:
    source = MemoryFrames(3)
    frames = source.frame_ids
    truth = np.stack([source.depth(frame_id) for frame_id in frames])
    images = {"crop": "none", "image_size": (64, 96), "flip_average": False, "preprocessing": {}}
    schema = build_schema(frames, input=images, native_size=(64, 96))
    write_all(StoreWriter.open(tmp_path / "a.zarr", schema, frames), truth)
    export_folder(tmp_path / "a.zarr", tmp_path / "out", "png16", Scale.parse("65535/80"))
    report = import_folder(tmp_path / "out", source, tmp_path / "b.zarr", ImportConfig("again"))
    assert report.scale == "65535/80"
    first, second = open_store(tmp_path / "a.zarr"), open_store(tmp_path / "b.zarr")
    for frame_id in frames:
        np.testing.assert_array_equal(first[frame_id], second[frame_id])


def test_the_pictures_are_16_bit_grey(tmp_path: Path) -> None:
    make_store(tmp_path / "a.zarr", count=1)
    export_folder(tmp_path / "a.zarr", tmp_path / "out", "png16")
    [file] = (tmp_path / "out").rglob("*.png")
    picture = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    assert picture is not None
    assert (picture.dtype, picture.shape) == (np.uint16, (12, 20))
