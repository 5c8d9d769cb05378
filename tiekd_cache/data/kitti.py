"""KITTI raw with its annotated depth maps, as a `FrameSource`: frames in the KB crop of 352x1216."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tiekd_cache.data.calibration import (
    CAM_TO_CAM,
    VELO_TO_CAM,
    Matrix,
    file_intrinsics,
    intrinsics,
    project_scan,
    published_intrinsics,
    read_scan,
    scan_projection,
)
from tiekd_cache.data.frame import DepthMap, Frame
from tiekd_cache.data.images import image_size, read_depth_png, read_image
from tiekd_cache.data.kitti_check import (
    FrameFiles,
    check_files,
    missing_files_text,
    skipped_lines,
)
from tiekd_cache.data.kitti_layout import RAW_DATA_URL, FrameKey, KittiLayout, detect_layout, first_found
from tiekd_cache.data.kitti_split import Purpose, SplitLine, find_split, read_split, usual_split
from tiekd_cache.data.transforms import KB_SIZE, kb_crop, kb_offset, shift_intrinsics
from tiekd_cache.errors import DataError, MissingFilesError


class KittiFrames:
    """The frames of one split of KITTI.

    Attributes:
        root: the folder that the data were found in.
        layout: where images and depth lie in it.
        split: which frames these are, e.g. `splits/eigen_train.txt`, or `all frames`.
        split_note: a sentence for the user: which split was used, why, and what it lacks.
        skipped: one line a frame that was left out because of `skip_missing`, with the reason.
    """

    name = "kitti"
    image_size = KB_SIZE
    max_depth = 80.0
    crop = f"kb {KB_SIZE[0]}x{KB_SIZE[1]}"

    def __init__(
        self,
        layout: KittiLayout,
        frames: Iterable[FrameFiles],
        split: str,
        split_note: str,
        skipped: Sequence[str] = (),
    ) -> None:
        self.layout, self.root = layout, layout.root
        self.split, self.split_note, self.skipped = split, split_note, list(skipped)
        self._frames = {files.key.frame_id: files for files in frames}
        self.frame_ids: tuple[str, ...] = tuple(self._frames)
        self._intrinsics: dict[tuple[str, str], Matrix | None] = {}
        self._projections: dict[tuple[str, str], Matrix] = {}

    @classmethod
    def open(
        cls,
        root: Path,
        split: str | Path | None = None,
        *,
        purpose: Purpose = "train",
        skip_missing: bool = False,
    ) -> KittiFrames:
        """The frames of a split, after a look (without opening them) at every file that it names.

        Args:
            root: folder of the data, in any of the three layouts of `kitti_layout`.
            split: a split file (a path, or a name beside the data), `all` for every frame found, or None for the
                usual split file of the purpose beside the data, else every frame.
            purpose: `test` demands every depth map that the split names; `train` notes what is missing.
            skip_missing: leave frames with missing files out, recorded in `skipped`, instead of raising.
        Raises:
            DataError: no data at `root`; no such split, or a malformed line; files missing; no frame left.
        """
        layout = detect_layout(Path(root))
        name, why, lines, repeated = _choose_lines(layout, split, purpose)
        check = check_files(layout, lines, purpose)
        if check.missing and not (skip_missing and check.frames):
            text = missing_files_text(check.missing, len(lines), name, layout)
            remedy = "--skip-missing goes on without these frames." if check.frames else "No frame is left."
            raise MissingFilesError(f"{text}\n{remedy}")
        notes = [f"{name} ({why}), {len(check.frames)} frames", *check.notes()]
        if repeated:
            notes.append(f"{repeated} repeated lines counted once")
        skipped = skipped_lines(check.missing)
        if skipped:
            notes.append(f"{len(skipped)} frames left out for missing files")
        return cls(layout, check.frames, name, "; ".join(notes), skipped)

    def subset(self, frame_ids: Iterable[str]) -> KittiFrames:
        """The same data with other frames, in the order given; they need not be in this split.

        Raises:
            DataError: an id is none of KITTI's or comes twice, or its image cannot be found.
        """
        wanted = list(frame_ids)
        if len(set(wanted)) != len(wanted):
            twice = next(frame_id for i, frame_id in enumerate(wanted) if frame_id in wanted[:i])
            raise DataError(f"Frame {twice} is asked for twice: a frame may be named once.")
        unknown = [SplitLine(FrameKey.parse(frame_id)) for frame_id in wanted if frame_id not in self._frames]
        check = check_files(self.layout, unknown, "train")
        if check.missing:
            raise MissingFilesError(missing_files_text(check.missing, len(wanted), "the frames asked for", self.layout))
        found = {files.key.frame_id: files for files in check.frames}
        frames = [self._frames.get(frame_id) or found[frame_id] for frame_id in wanted]
        return KittiFrames(self.layout, frames, self.split, f"{len(frames)} frames chosen; {self.split_note}")

    def load(self, frame_id: str, *, with_gt: bool = False) -> Frame:
        """One frame in the KB crop; `gt_depth` from the depth PNG where `with_gt` and there is one.

        Raises:
            DataError: a file is truncated, damaged or smaller than the crop; the frame is not of this split.
        """
        files = self._files(frame_id)
        image = read_image(files.image)
        height, width = image.shape[:2]
        top, left = _kb_offset(files.image, height, width)
        gt_depth = None
        if with_gt and files.depth is not None:
            gt_depth = self._read_depth(files, files.depth, (height, width))
        shifted = shift_intrinsics(self._full_intrinsics(files, height, width), top, left)
        cropped = image[top : top + KB_SIZE[0], left : left + KB_SIZE[1]]  # no copy: whoever takes it makes one anyway
        return Frame(frame_id, cropped, shifted, gt_depth)

    def full_size(self, frame_id: str) -> tuple[int, int]:
        """(height, width) in pixels of the frame's whole image, before the crop; raises DataError as `load`."""
        return image_size(self._files(frame_id).image)

    def lidar_depth(self, frame_id: str) -> DepthMap | None:
        """[352,1216] float32 metres, 0 = none: from the depth PNG, else from the LiDAR scan; None without both.

        Raises:
            DataError: a file is truncated or damaged, or the scan's calibration is missing.
        """
        files = self._files(frame_id)
        if files.depth is not None:
            return self._read_depth(files, files.depth, image_size(files.image))
        scan = first_found(self.layout.scan_paths(files.key))
        if scan is None:
            return None
        height, width = image_size(files.image)
        _kb_offset(files.image, height, width)
        return kb_crop(project_scan(read_scan(scan.path), self._projection(files.key), height, width))

    def has_lidar(self, frame_id: str) -> bool:
        """Whether there is a depth PNG or a LiDAR scan for this frame; touches no pixel."""
        files = self._files(frame_id)
        return files.depth is not None or first_found(self.layout.scan_paths(files.key)) is not None

    def has_gt(self, frame_id: str) -> bool:
        """Whether this frame has a depth PNG that the split allows."""
        return self._files(frame_id).depth is not None

    def _files(self, frame_id: str) -> FrameFiles:
        files = self._frames.get(frame_id)
        if files is None:
            raise DataError(f"Frame {frame_id} is not among the {len(self._frames)} frames of {self.split}.")
        return files

    def _read_depth(self, files: FrameFiles, path: str, size: tuple[int, int]) -> DepthMap:
        """The cropped depth PNG; raises DataError where it does not fit the image of `size`."""
        depth = read_depth_png(path)
        if depth.shape != size:
            raise DataError(
                f"{path} is {depth.shape[0]}x{depth.shape[1]} pixels but its image {files.image} is "
                f"{size[0]}x{size[1]}: both must be KITTI's originals. Was one of them resized or cropped?"
            )
        _kb_offset(path, *size)
        return kb_crop(depth)

    def _full_intrinsics(self, files: FrameFiles, height: int, width: int) -> Matrix:
        """[3,3] of the uncropped image: the date's calibration, else the published one, else the split's focal."""
        date, camera = files.key.date, files.key.camera
        if (date, camera) not in self._intrinsics:
            path = first_found(self.layout.calibration_paths(date, CAM_TO_CAM))
            known = file_intrinsics(path.path, camera) if path is not None else published_intrinsics(date)
            self._intrinsics[date, camera] = known
        known = self._intrinsics[date, camera]
        if known is not None:
            return known
        if files.focal_px is None:
            raise DataError(
                f"No intrinsics for {files.key.frame_id}: {date} is none of KITTI's dates, has no {CAM_TO_CAM}, and "
                "the split names no focal length. Add the calibration file to the date's folder."
            )
        return intrinsics(files.focal_px, width / 2.0, height / 2.0)

    def _projection(self, key: FrameKey) -> Matrix:
        """[3,4] from LiDAR to the camera; raises DataError where the date's calibration is not there."""
        if (key.date, key.camera) not in self._projections:
            paths = [first_found(self.layout.calibration_paths(key.date, name)) for name in (CAM_TO_CAM, VELO_TO_CAM)]
            if paths[0] is None or paths[1] is None:
                raise DataError(
                    f"The LiDAR scan of {key.frame_id} needs {CAM_TO_CAM} and {VELO_TO_CAM} in the folder of "
                    f"{key.date}. Unpack {key.date}_calib.zip of KITTI's raw data ({RAW_DATA_URL}) there."
                )
            self._projections[key.date, key.camera] = scan_projection(paths[0].path, paths[1].path, key.camera)
        return self._projections[key.date, key.camera]


def _choose_lines(
    layout: KittiLayout, split: str | Path | None, purpose: Purpose
) -> tuple[str, str, Sequence[SplitLine], int]:
    """(name, why this one, lines, how many lines were repeated) of the split that the user means."""
    places = layout.split_places()
    path = None
    if split is None:
        path = usual_split(places, purpose)
        why = "found beside the data" if path is not None else f"no usual {purpose} split file beside the data"
    elif str(split) != "all":
        path, why = find_split(split, places), "as asked for"
    else:
        why = "as asked for"
    if path is not None:
        read = read_split(path)
        return _split_name(path, layout), why, read.lines, read.repeated
    lines = [SplitLine(key, extension) for key, extension in layout.list_frames()]
    if not lines:
        raise DataError(
            f"No images in {layout.describe()} of {layout.root}: a frame is <date>/<drive>/image_02/data/<index>.png. "
            f"Unpack KITTI's raw data, synced+rectified ({RAW_DATA_URL})."
        )
    return "all frames", why, lines, 0


def _split_name(path: Path, layout: KittiLayout) -> str:
    """How a split file is called in notes and stores: from the data's root on, the same on every machine."""
    resolved, root = path.resolve(), layout.root.resolve()
    return resolved.relative_to(root).as_posix() if resolved.is_relative_to(root) else path.name


def _kb_offset(path: str, height: int, width: int) -> tuple[int, int]:
    if height < KB_SIZE[0] or width < KB_SIZE[1]:
        raise DataError(
            f"{path} is {height}x{width} pixels, fewer than the KB crop of {KB_SIZE[0]}x{KB_SIZE[1]}: "
            "KITTI's own images are larger. Was it resized?"
        )
    return kb_offset(height, width)
