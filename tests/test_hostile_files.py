"""Settings, records, evaluations, pictures and depth files of others: one line, little memory, no other files."""

from __future__ import annotations

import itertools
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hostile import in_little_memory
from store_helpers import build_schema, depth_maps, make_store, write_all

from tiekd_cache.config import from_mapping, read_toml
from tiekd_cache.data.calibration import read_calibration
from tiekd_cache.data.images import image_size, read_depth_png, read_image
from tiekd_cache.data.kitti_split import read_split
from tiekd_cache.data.nyu_mat import NyuMatFrames
from tiekd_cache.distill_config import DistillConfig
from tiekd_cache.errors import ConfigError, DataError, StoreError, TiekdError
from tiekd_cache.progress import no_progress_bar
from tiekd_cache.results import read_results
from tiekd_cache.run_folder import RunFolder
from tiekd_cache.sharing import read_frame_choice
from tiekd_cache.store import StoreWriter, open_store
from tiekd_cache.transfer import Scale, export_folder, export_hdf5, import_hdf5
from tiekd_cache.transfer.depth_files import read_counts
from tiekd_cache.transfer.export_folder import DESCRIPTION
from tiekd_cache.transfer.import_folder import _scale_of_export
from tiekd_cache.transfer.tiff_header import tiff_size


def refused(read: Callable[[], Any], error: type[TiekdError], words: str) -> None:
    def work() -> None:
        with pytest.raises(error, match=words) as caught:
            read()
        assert "\n" not in str(caught.value)

    in_little_memory(work)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"a = {'[' * 100_000}", "nests without end"),
        (f"a = {'[' * 70}{']' * 70}", "more than 64 levels"),
        (f"{'a.' * 500}a = 1", "more than 64 levels"),
        (f"a = {'9' * 5000}", "is not TOML"),
        ("a = \udcff", "is not TOML"),
    ],
    ids=["endless", "deep", "dotted", "digits", "bytes"],
)
def test_settings_that_are_no_settings_are_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(lambda: read_toml(tmp_path / "a.toml"), ConfigError, words)


def test_numbers_of_more_than_64_bits_are_no_settings() -> None:
    for table, key in (("optimiser", "lr"), ("train", "steps")):
        with pytest.raises(ConfigError, match=f"{table}.{key}' is a number of more than 64 bits"):
            from_mapping(DistillConfig, {table: {key: 10**400}})


def test_a_file_without_end_is_none_of_ours(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.touch()
    os.truncate(file, 1 << 42)
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.toml", "run.json", "metrics.jsonl"):
        (run / name).symlink_to(file)
    readers: list[Callable[[], Any]] = [
        lambda: read_toml(file),
        lambda: read_results(file),
        lambda: read_split(file),
        lambda: read_frame_choice(file),
        lambda: read_calibration(file),
        lambda: read_image(file),
        lambda: read_depth_png(file),
        lambda: image_size(file),
        lambda: read_counts(file.rename(tmp_path / "a.npy") if file.exists() else tmp_path / "a.npy"),
        lambda: RunFolder(run).run(),
    ]
    for read in readers:
        with pytest.raises(TiekdError, match=r"more than the|not a whole PNG or JPEG|cannot be read"):
            read()


@pytest.mark.parametrize(
    "record",
    [
        {"fingerprint": 3, "store": "a"},
        {"fingerprint": "f", "store": ["a"]},
        {"fingerprint": "f", "store": "a", "stores": "a"},
        {"fingerprint": "f", "store": "a", "stores": [{"store": "a"}]},
        {"fingerprint": "f", "store": "a", "stores": [["a", "f"]]},
        {"fingerprint": "f", "store": "a", "source": {"kitti": ["data"]}},
        {"fingerprint": "f", "store": "a", "frames": float("nan")},
    ],
    ids=str,
)
def test_a_runs_record_of_other_types_is_one_line(tmp_path: Path, record: dict[str, Any]) -> None:
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"run\.json cannot be read"):
        RunFolder(tmp_path).run()


@pytest.mark.parametrize("line", ['{"step": "1", "loss": 1}', '{"step": 1, "loss": "1"}', '{"step": 1, "loss": NaN}'])
def test_lines_of_other_types_end_the_record(tmp_path: Path, line: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1, "loss": 2.0}}\n{line}\n')
    assert [record["loss"] for record in RunFolder(tmp_path).metrics()] == [2.0]


def test_a_run_folder_is_not_written_through_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder = RunFolder(tmp_path / "run")
    folder.create(DistillConfig(), {"fingerprint": "f"})
    folder.metrics_file.symlink_to(victim)
    with pytest.raises(DataError, match="Cannot write the run folder"):
        folder.append(folder.metrics_file, {"step": 1, "loss": 1.0})
    folder.run_file.unlink()
    folder.run_file.symlink_to(victim)
    with pytest.raises(ConfigError):
        folder.update_run(finished=True)
    assert victim.read_text() == "mine"


METRICS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "log_10", "silog", "a1", "a2", "a3")


def evaluation(**image: Any) -> str:
    metrics = dict.fromkeys(METRICS, 0.5)
    first = {"frame_id": "a", "gt_pixels": 5, "ground_truth": metrics, **image}
    protocol = {"dataset": "kitti", "min_depth": 0.1, "max_depth": 80.0, "flip_average": True, "crop": "garg"}
    return json.dumps({**protocol, "first_row": 0, "store_fingerprint": None, "images": [first]})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", evaluation(ground_truth={**dict.fromkeys(METRICS, 0.5), "rmse": 10**400})),
        ("a.json", evaluation(ground_truth={**dict.fromkeys(METRICS, 0.5), "rmse": float("nan")})),
        ("a.json", evaluation(ground_truth=[1])),
        ("a.json", evaluation(ground_truth="1")),
        ("a.json", evaluation(frame_id=5)),
        ("a.json", evaluation(frame_id="a" * 10**6)),
        ("a.json", evaluation(more=1)),
        ("a.json", '{"images": ' + "[" * 100_000),
        ("a.csv", "frame_id,gt_pixels\n" + '"' + "a" * 200_000),
        ("a.csv", "frame_id,gt_pixels,abs_rel\na,1"),
    ],
    ids=["digits", "nan", "list", "text", "number", "long", "more", "deep", "csv field", "csv row"],
)
def test_an_evaluation_of_other_things_is_one_line(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    refused(lambda: read_results(tmp_path / name), DataError, "is no evaluation with its images")


def png(height: int, width: int, bits: int, colour: int) -> bytes:
    """A PNG of zeros, of which only the first rows are there."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">2I5B", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b"")]
    )


def jpeg(height: int, width: int) -> bytes:
    return b"\xff\xd8\xff\xc0\x00\x0b\x08" + struct.pack(">2H", height, width) + b"\x01\x01\x11\x00\xff\xd9"


@pytest.mark.parametrize(
    "data", [png(30_000, 30_000, 8, 2), png(1 << 30, 1 << 30, 8, 2), jpeg(65_000, 65_000)], ids=["png", "huge", "jpeg"]
)
def test_a_picture_beyond_any_is_not_decoded(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.png").write_bytes(data)
    refused(lambda: read_image(tmp_path / "a.png"), DataError, "a picture has 268435456 pixels at most")


def test_a_depth_map_beyond_any_is_not_decoded(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(30_000, 30_000, 16, 0))
    refused(lambda: read_depth_png(tmp_path / "a.png"), DataError, "pixels at most")


def tiff(order: str, big: bool, *, height: int = 30_000, width: int = 30_000, channels: int = 1) -> bytes:
    """A TIFF or BigTIFF file that declares an image and holds nothing of it."""
    tags = [(256, 4, width), (257, 4, height), (258, 3, 16), (277, 3, channels)]
    magic = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}H", 43 if big else 42)
    head = struct.pack(f"{order}2HQ", 8, 0, 16) if big else struct.pack(f"{order}I", 8)
    count = struct.pack(f"{order}{'Q' if big else 'H'}", len(tags))
    entries = [
        struct.pack(f"{order}2H{'Q' if big else 'I'}", tag, kind, 1)
        + struct.pack(f"{order}{'H' if kind == 3 else 'I'}", value).ljust(8 if big else 4, b"\0")
        for tag, kind, value in tags
    ]
    return magic + head + count + b"".join(entries) + bytes(8)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_beyond_any_is_not_decoded(tmp_path: Path, order: str, big: bool) -> None:
    assert tiff_size(tiff(order, big, height=7, width=5, channels=3)) == (7, 5, 3)
    (tmp_path / "a.tiff").write_bytes(tiff(order, big))
    refused(lambda: read_counts(tmp_path / "a.tiff"), DataError, "declares 30000x30000 px of 1 channels")


def test_a_picture_called_tiff_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.tiff").write_bytes(png(30_000, 30_000, 16, 0))
    refused(lambda: read_counts(tmp_path / "a.tiff"), DataError, "no whole TIFF file")
    assert tiff_size(b"") is tiff_size(b"II*\0\xff\xff\xff\xff") is tiff_size(b"XX") is None


def test_compressed_zeros_are_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("depth.npy", b"")
        archive.infolist()[0].file_size = 1 << 34
    refused(lambda: read_counts(tmp_path / "a.npz"), DataError, "more than a depth map has")


@pytest.mark.parametrize("text", ["1e999999999", "1e-999999999", "1/1e-999999999", "1" * 100, "nan", "inf/1"])
def test_a_scale_beyond_any_is_refused_at_once(tmp_path: Path, text: str) -> None:
    refused(lambda: Scale.parse(text), ConfigError, "is no number of counts per metre")
    (tmp_path / DESCRIPTION).write_text(json.dumps({"scale": text}))
    refused(lambda: _scale_of_export(tmp_path), ConfigError, "is no number of counts per metre")


@pytest.mark.parametrize(
    "frame_id", ["a//b", "./a", "a/./b", "a\0b", "a\x1b[2Jb", "a\u202eb", "é" * 200, "../a", "/a", "a\\b", ".."]
)
def test_a_frame_id_that_is_no_file_name_is_not_exported(tmp_path: Path, frame_id: str) -> None:
    make_named(tmp_path / "a.zarr", [frame_id, "b"])
    with pytest.raises(StoreError, match="is no path below a folder"):
        export_folder(tmp_path / "a.zarr", tmp_path / "out", "npz", progress=no_progress_bar)
    assert [path.name for path in tmp_path.rglob("*.npz")] == []


def make_named(path: Path, frame_ids: list[str]) -> None:
    writer = StoreWriter.open(path, build_schema(frame_ids), frame_ids, shard_frames=4)
    write_all(writer, depth_maps(len(frame_ids)))


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    make_store(tmp_path / "a.zarr")
    export_hdf5(tmp_path / "a.zarr", tmp_path / "a.h5", progress=no_progress_bar)
    return tmp_path / "a.h5"


def replaced(file: Any, name: str, **options: Any) -> Any:
    del file[name]
    return file.create_dataset(name, **options)


def elsewhere(file: Any) -> None:
    with h5py.File(Path(file.filename).with_name("other.h5"), "w") as other:
        file.copy("codes", other)
    del file["codes"]
    file["codes"] = h5py.ExternalLink("other.h5", "/codes")


def outside(file: Any) -> None:
    Path(file.filename).with_name("raw").write_bytes(file["codes"][:].tobytes())
    shape = file["codes"].shape
    replaced(file, "codes", shape=shape, dtype="<u2", external=[("raw", 0, h5py.h5f.UNLIMITED)])


def virtual(file: Any) -> None:
    shape = file["codes"].shape
    with h5py.File(Path(file.filename).with_name("other.h5"), "w") as other:
        file.copy("codes", other)
    layout = h5py.VirtualLayout(shape, "<u2")
    layout[:] = h5py.VirtualSource("other.h5", "codes", shape)
    del file["codes"]
    file.create_virtual_dataset("codes", layout)


def bomb(file: Any, name: str, shape: tuple[int, ...], dtype: Any, chunks: tuple[int, ...] | None = None) -> None:
    """In a dataset's place, chunks of a few bytes that inflate to 500 MB each."""
    deflate = zlib.compressobj(9)
    block = deflate.compress(bytes(1 << 20)) + deflate.flush(zlib.Z_FULL_FLUSH)  # the same each time but for its head
    head, again = block[:2], block[2:]
    checksum = struct.pack(">HH", (500 << 20) % 65521, 1)  # Adler-32 of so many zeros
    data = head + 500 * again + zlib.compressobj(9, wbits=-15).flush() + checksum
    if name in file:
        del file[name]
    options = {"dtype": dtype, "chunks": chunks or shape, "compression": "gzip"}
    found = file.create_dataset(name, shape=shape, **options)
    for offset in itertools.product(*map(range, (0,) * len(shape), shape, found.chunks)):
        found.id.write_direct_chunk(offset, data)


LONG = "longer names than ids can be"
HDF5: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a link to another file": (elsewhere, "no dataset 'codes' of its own"),
    "values in another file": (outside, "lie in other files"),
    "a view of another file": (virtual, "lie in other files"),
    "maps beyond their size": (
        lambda f: bomb(f, "codes", (10, 12, 20), "<u2", (1, 12, 20)),
        "a chunk of it cannot be read",
    ),
    "digests beyond their size": (lambda f: bomb(f, "digest", (10,), "<u4"), "'digest' is compressed"),
    "names beyond their size": (lambda f: bomb(f, "frame_id", (10,), h5py.string_dtype()), "'frame_id' is compressed"),
    "attributes beyond their size": (
        lambda f: bomb(f, "attributes", (1,), h5py.string_dtype()),
        "'attributes' is compressed",
    ),
    "statistics beyond their size": (
        lambda f: bomb(f, "statistics", (3,), h5py.string_dtype()),
        "'statistics' is compressed",
    ),
    "compressed maps never written": (
        lambda f: replaced(f, "codes", shape=(10, 12, 20), dtype="<u2", compression="gzip"),
        "a chunk of it cannot be read",
    ),
    "maps never written": (lambda f: replaced(f, "codes", shape=(10, 12, 20), dtype="<u2"), "never written"),
    "digests never written": (lambda f: replaced(f, "digest", shape=(1 << 40,), dtype="<u4"), "never written"),
    "chunks beyond memory": (
        lambda f: replaced(f, "codes", shape=(1 << 20, 12, 20), dtype="<u2", chunks=(1 << 20, 12, 20)),
        "more than a map has",
    ),
    "names never written": (lambda f: replaced(f, "frame_id", shape=(1 << 40,), dtype=h5py.string_dtype()), "never"),
    "names of a fixed length": (lambda f: replaced(f, "frame_id", data=np.zeros(10, "S9")), "holds no texts"),
    LONG: (lambda f: None, "more than 5 characters"),
    "a group of maps": (lambda f: (f.__delitem__("codes"), f.create_group("codes")), "no dataset 'codes'"),
    "another compression": (
        lambda f: replaced(f, "codes", data=np.zeros((10, 12, 20), "<u2"), compression="lzf"),
        "something else than gzip",
    ),
    "attributes of numbers": (lambda f: replaced(f, "attributes", data=np.arange(3)), "holds no texts"),
    "attributes without end": (
        lambda f: replaced(f, "attributes", data="[" * 10**5, dtype=h5py.string_dtype()),
        "nests without end",
    ),
    "shards beyond any": (lambda f: f.attrs.__setitem__("shard_frames", 1 << 40), "cannot be made"),
    "no number of frames": (lambda f: f.attrs.__setitem__("shard_frames", "many"), "cannot be read"),
}


@pytest.mark.parametrize("change", HDF5)
def test_an_hdf5_file_of_other_things_is_one_line(
    exported: Path, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if change == LONG:
        monkeypatch.setattr("tiekd_cache.transfer.hdf5_import.MAX_FRAME_LIST_BYTES", 5)
    make, words = HDF5[change]
    with h5py.File(exported, "r+") as file:
        make(file)
    refused(lambda: import_hdf5(exported, tmp_path / "b.zarr", progress=no_progress_bar), TiekdError, words)
    assert not (tmp_path / "b.zarr").exists() or not len(open_store(tmp_path / "b.zarr", allow_partial=True))


def test_a_labelled_file_that_lies_elsewhere_or_has_no_end_is_refused(tmp_path: Path) -> None:
    for name, shape in (("images", (1 << 40, 3, 640, 480)), ("images", (2, 3, 640, 480))):
        with h5py.File(tmp_path / "a.mat", "w") as file:
            file.create_dataset(name, shape=shape, dtype="u1", chunks=(1, 3, 640, 480))
            file["depths"] = h5py.ExternalLink("other.mat", "/depths")
        words = "not \\[N, 3, 640, 480\\]" if shape[0] > 2 else "no dataset 'depths' of its own"
        refused(lambda: NyuMatFrames.open(tmp_path / "a.mat"), DataError, words)


def test_a_frame_number_of_many_digits_is_none(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file["images"] = np.zeros((2, 3, 640, 480), np.uint8)
        file["depths"] = np.ones((2, 640, 480), np.float32)
    (tmp_path / "split.txt").write_text("9" * 5000)
    with pytest.raises(DataError, match="is no frame number from 1 to 2"):
        NyuMatFrames.open(tmp_path / "a.mat", str(tmp_path / "split.txt"))


@pytest.mark.parametrize("field", ["images", "depths"])
def test_a_labelled_file_with_frames_beyond_their_size_is_refused(tmp_path: Path, field: str) -> None:
    shapes = {"images": (2, 3, 640, 480), "depths": (2, 640, 480)}
    with h5py.File(tmp_path / "a.mat", "w") as file:
        for name, shape in shapes.items():
            file[name] = np.ones(shape, "u1" if name == "images" else "f4")
        bomb(file, field, shapes[field], file[field].dtype, (1, *shapes[field][1:]))
    frames = NyuMatFrames.open(tmp_path / "a.mat")
    refused(lambda: frames.load(frames.frame_ids[1], with_gt=True), DataError, f"{field} of .* does not inflate")
