"""Images beside the responses, in a group of their own below the store: `images/`, without loss, read by frame id.

A store without them is whole, and a reader that knows nothing of them reads the responses. An image is three planes
of what is left over when each pixel is predicted by its left neighbour, compressed by zstd: as many bytes as a PNG,
decoded in a sixth of its time. Shards, index, checksums and done-records are those of the responses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import google_crc32c
import numpy as np
import numpy.typing as npt
from numcodecs.zstd import Zstd

from tiekd_cache.foreign import parse_json
from tiekd_cache.store.catalogue import Catalogue, DamagedStoreError, damaged, open_catalogue
from tiekd_cache.store.chunks import CRC_BYTES, Damage, NotAsSigned, with_crc, without_crc, zstd_content_bytes
from tiekd_cache.store.frames import OwnFrames, SignedShards
from tiekd_cache.store.kernels import kernels
from tiekd_cache.store.layout import BYTES, Layout, array_document, same_format, sharded_document
from tiekd_cache.store.object_path import StorePlace, has_optional, name_in, read_again, sizes_of, store_path
from tiekd_cache.store.record import DoneRecord, done_shards
from tiekd_cache.store.schema import JsonObject, StoreSchema, sha256_of
from tiekd_cache.store.signature import Trust, signed_by

T = TypeVar("T")
Image = npt.NDArray[np.uint8]
Intrinsics = npt.NDArray[np.float64]

IMAGES_FORMAT = "tiekd-cache-images/1"
FOLDER = "images"
_ZSTD_CODEC = {"name": "zstd", "configuration": {"level": 1, "checksum": False}}
_ZSTD = Zstd(level=1)


def encode_image(image: Image) -> bytes:
    """The chunk of an image [H,W,3] uint8: planes, each pixel less its left neighbour, zstd, crc32c."""
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    planes[:, :, 1:] -= planes[:, :, :-1].copy()
    return with_crc(_ZSTD.encode(planes))


def decode_image(chunk: bytes, size: tuple[int, int]) -> Image:
    """[H,W,3] uint8 RGB of a chunk.

    Raises:
        Damage: it does not match its checksum, or holds an image of another size.
    """
    body, length = without_crc(chunk), 3 * size[0] * size[1]
    if zstd_content_bytes(body) != length:
        raise Damage(f"chunk does not hold an image of {size[0]}x{size[1]} px")
    planes = np.empty((3, *size), np.uint8)
    try:
        _ZSTD.decode(body, planes)  # without room of ours it would unfold whatever follows the first frame
    except (RuntimeError, ValueError) as error:
        raise Damage(f"chunk cannot be decompressed ({error})") from error
    image = np.empty((*size, 3), np.uint8)
    kernels().image(planes, image)
    return image


def image_digest(image: Image) -> int:
    """crc32c of an image's bytes [H,W,3] in C order: what a read must reproduce."""
    return int(google_crc32c.value(np.ascontiguousarray(image)))


class ImageLayout(Layout):
    """Where the parts of `images/` lie; `native_size` is the images' size."""

    @property
    def frame_bytes(self) -> int:
        """Of one image before compression."""
        return 3 * self.native_size[0] * self.native_size[1]

    def shard_file(self, shard: int) -> Path:
        """The images of a shard's frames."""
        return self.path / "image" / "c" / str(shard) / "0" / "0" / "0"

    def intrinsics_file(self, shard: int) -> Path:
        """The intrinsics of a shard's frames, a chunk of float64 [shard_frames,3,3]."""
        return self.path / "intrinsics" / "c" / str(shard) / "0" / "0"

    def array_metadata(self) -> dict[str, JsonObject]:
        """The `zarr.json` of each array."""
        height, width = self.native_size
        codecs: list[JsonObject] = [{"name": "bytes"}, _ZSTD_CODEC, {"name": "crc32c"}]
        shape = [self.num_frames, 3, height, width]
        return {
            "image": sharded_document(shape, self.shard_frames, "uint8", codecs, ["frame", "channel", "y", "x"]),
            "intrinsics": array_document(
                [self.num_frames, 3, 3],
                [self.shard_frames, 3, 3],
                "float64",
                0,
                [BYTES, {"name": "crc32c"}],
                ["frame", "row", "column"],
            ),
        }


@dataclass(frozen=True)
class ImageCatalogue:
    """What `images/` holds, as its metadata describe it.

    Attributes:
        layout: where its files are.
        fingerprint: of data set, frames, crop and size: what a record must name.
        store: of the responses beside it.
        done: numbers of the shards that were finished when it was opened.
    """

    layout: ImageLayout
    fingerprint: str
    store: Catalogue
    done: frozenset[int]

    def num_done(self) -> int:
        """Images of finished shards."""
        return sum(len(self.layout.positions(shard)) for shard in self.done)

    def record(self, shard: int) -> DoneRecord:
        """The done-record of a shard, checked; raises Damage as `Catalogue.record`."""
        record = DoneRecord.from_bytes(self.store.read(self.layout.record_file(shard)))
        record.check(self.fingerprint, shard, self.layout.positions(shard))
        return record

    def read_intrinsics(self, shard: int) -> Intrinsics:
        """[n,3,3] float64, pixels, of a shard's frames; raises Damage where the file is not as it was written."""
        file, length = self.layout.intrinsics_file(shard), 72 * self.layout.shard_frames
        data = without_crc(self.store.read(file, length + CRC_BYTES))
        if len(data) != length:
            raise Damage(f"intrinsics of {len(data) // 72} frames instead of {self.layout.shard_frames}")
        rows = np.frombuffer(data, "<f8").reshape(-1, 3, 3)
        return rows[: len(self.layout.positions(shard))].astype(np.float64)


def image_layout(folder: Path, store: Layout, schema: StoreSchema, shard_frames: Any) -> ImageLayout:
    """Where the images of a store's frames lie; raises Damage where shards of so many images cannot be."""
    if type(shard_frames) is not int:
        raise Damage(f"shards of {shard_frames!r} images make no sense")
    layout = ImageLayout(folder, store.num_frames, schema.image_size, shard_frames)
    if problem := layout.problem():
        raise Damage(problem)
    return layout


def group_document(layout: ImageLayout, schema: StoreSchema) -> JsonObject:
    """The `zarr.json` of `images/` beside responses with this schema."""
    return {
        "attributes": _attributes(schema),
        "zarr_format": 3,
        "node_type": "group",
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": layout.array_metadata()},
    }


def _attributes(schema: StoreSchema) -> JsonObject:
    content = {
        "coding": "left difference",
        "size": schema.input["image_size"],
        "crop": schema.input["crop"],
        "dataset": {name: schema.dataset[name] for name in ("name", "num_frames", "frames_digest")},
    }
    return {"format": IMAGES_FORMAT, "content": content, "fingerprint": sha256_of([IMAGES_FORMAT, content])}


def has_images(store: StorePlace) -> bool:
    """Whether a store has a folder of images, be it finished or not."""
    path = store_path(store)
    return has_optional(path, path / FOLDER / "zarr.json")


def open_images(store: Catalogue) -> ImageCatalogue | None:
    """The images beside a store's responses; None where there are none.

    Raises:
        DamagedStoreError: what is there does not belong to these responses, was changed, or is not as signed.
        TrustError: there are shards of images that are not signed.
    """
    if not has_images(store.path):
        return None
    folder, file = store.path / FOLDER, store.path / FOLDER / "zarr.json"
    try:
        group = parse_json(store.read(file))
        found = group["attributes"]
        arrays = group["consolidated_metadata"]["metadata"]
        shard_frames = arrays["image"]["chunk_grid"]["configuration"]["chunk_shape"][0]
        layout = image_layout(folder, store.layout, store.schema, shard_frames)
    except NotAsSigned as reason:
        raise damaged(store.path, file, reason) from reason
    except (Damage, ValueError, KeyError, IndexError, TypeError) as error:
        raise _unreadable(store.path, file, f"metadata cannot be read ({error})") from error
    expected = _attributes(store.schema)
    if not isinstance(found, Mapping) or any(found.get(name) != value for name, value in expected.items()):
        raise _unreadable(store.path, file, "the attributes are not those of this store's frames")
    if not same_format(arrays, layout.array_metadata()):
        raise _unreadable(store.path, file, "metadata of the arrays are not those of format 1")
    try:
        done = done_shards(folder / "done", layout.num_shards, store.path)
    except OSError as error:
        raise damaged(store.path, folder / "done", f"done-records cannot be listed ({error.strerror})") from error
    if store.signed is not None:
        store.signed.require_names(store.path, (name_in(store.path, layout.record_file(shard)) for shard in done))
    return ImageCatalogue(layout, expected["fingerprint"], store, done)


def images_summary(path: str | Path, trust: Trust | None = None) -> JsonObject | None:
    """How many images the store at a path has and what they take, for `info`; None where it has none.

    Args:
        trust: who must have signed it, or what they have.
    Raises:
        StoreError: as `open_catalogue` and `open_images`.
    """
    place = store_path(path)
    images = open_images(open_catalogue(place, signed_by(place, trust)))
    if images is None:
        return None
    frames = images.num_done()
    files = [images.layout.shard_file(shard) for shard in images.done]
    total = sum(sizes_of(files))
    return {"frames": frames, "bytes": total, "bytes_per_frame": round(total / frames, 1) if frames else 0.0}


def _unreadable(store: Path, file: Path, reason: str) -> DamagedStoreError:
    return DamagedStoreError(
        f"Images of store {store} are damaged: {reason} ({file}). The responses can be read without them; before you"
        f" copy or sign it remove the folder {file.parent}, then run the same `precompute --with-images` again."
    )


class ImageReader:
    """Reads images in one process; threads may share it.

    Args:
        catalogue: of the images.
    """

    def __init__(self, catalogue: ImageCatalogue) -> None:
        self.catalogue = catalogue
        signed = None if catalogue.store.signed is None else SignedShards(catalogue.layout, catalogue.record)
        self._frames = OwnFrames(catalogue.layout, signed)
        self._digests: dict[int, tuple[int, ...]] = {}
        self._intrinsics: dict[int, Intrinsics] = {}

    def has(self, position: int) -> bool:
        """Whether the image at a position in the frame list was finished when the store was opened."""
        return position // self.catalogue.layout.shard_frames in self.catalogue.done

    def image(self, position: int) -> Image:
        """[H,W,3] uint8 RGB of the frame at a position in the frame list, compared with its digest.

        Raises:
            DamagedStoreError: it is not what was written.
        """
        layout = self.catalogue.layout
        shard, place = divmod(position, layout.shard_frames)
        digest = self._checked(position, layout.record_file(shard), self._digests_of)[place]

        def read(shard: int) -> Image:
            image = decode_image(self._frames.chunk(shard, place), layout.native_size)
            if image_digest(image) != digest:
                raise Damage("the image does not have the digest in its done-record")
            return image

        return self._checked(position, layout.shard_file(shard), read)

    def intrinsics(self, position: int) -> Intrinsics:
        """[3,3] float64, pixels, of the frame at a position; raises as `image`."""
        layout = self.catalogue.layout
        shard, place = divmod(position, layout.shard_frames)
        return np.array(self._checked(position, layout.intrinsics_file(shard), self._intrinsics_of)[place])

    def _digests_of(self, shard: int) -> tuple[int, ...]:
        if shard not in self._digests:
            self._digests[shard] = self.catalogue.record(shard).digests
        return self._digests[shard]

    def _intrinsics_of(self, shard: int) -> Intrinsics:
        if shard not in self._intrinsics:
            self._intrinsics[shard] = self.catalogue.read_intrinsics(shard)
        return self._intrinsics[shard]

    def _checked(self, position: int, file: Path, read: Callable[[int], T]) -> T:
        try:
            return read_again(lambda: file, lambda: read(position // self.catalogue.layout.shard_frames))
        except Damage as damage:
            store = self.catalogue.store
            raise damaged(store.path, file, damage, store.frame_ids[position]) from damage
