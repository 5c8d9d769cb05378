"""Pictures and depth maps are read exactly, and no damaged or mistaken file passes for one, nor fills the terminal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kitti_helpers import write_picture

from tiekd_cache.data.images import image_size, read_depth_png, read_image
from tiekd_cache.errors import DataError

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (30, 50, 3), dtype=np.uint8)
COUNTS = RNG.integers(0, 65536, (30, 50), dtype=np.uint16)
same_folder_each_time = settings(
    suppress_health_check=[*settings.default.suppress_health_check, HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def png(tmp_path: Path) -> Path:
    write_picture(tmp_path / "a.png", PICTURE)
    return tmp_path / "a.png"


@pytest.fixture
def jpg(tmp_path: Path) -> Path:
    write_picture(tmp_path / "a.jpg", PICTURE)
    return tmp_path / "a.jpg"


@pytest.fixture
def depth_png(tmp_path: Path) -> Path:
    write_picture(tmp_path / "depth.png", COUNTS)
    return tmp_path / "depth.png"


def test_png_comes_back_exactly_as_rgb(png: Path) -> None:
    image = read_image(png)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, PICTURE)


def test_jpeg_keeps_the_order_of_the_channels(tmp_path: Path) -> None:
    reddish = np.full((32, 32, 3), (200, 100, 20), dtype=np.uint8)
    write_picture(tmp_path / "a.jpg", reddish)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - reddish).max() <= 3


def test_a_grey_picture_has_three_equal_channels(tmp_path: Path) -> None:
    write_picture(tmp_path / "grey.png", PICTURE[..., 0])
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), PICTURE[..., :1].repeat(3, axis=2))


@pytest.mark.parametrize("depth_scale", [256.0, 1000.0, 65535 / 80])
def test_depth_is_counts_over_scale(depth_png: Path, depth_scale: float) -> None:
    depth = read_depth_png(depth_png, depth_scale)
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, COUNTS / depth_scale, rtol=1e-6)


def test_a_missing_measurement_is_exactly_zero(tmp_path: Path) -> None:
    write_picture(tmp_path / "d.png", np.array([[0, 256], [1, 65535]], dtype=np.uint16))
    np.testing.assert_array_equal(read_depth_png(tmp_path / "d.png"), [[0, 1], [1 / 256, 65535 / 256]])


def test_size_without_decoding(png: Path, jpg: Path, depth_png: Path) -> None:
    assert image_size(png) == image_size(jpg) == image_size(depth_png) == (30, 50)


@same_folder_each_time
@given(data=st.data())
def test_every_truncation_of_a_png_is_found(png: Path, data: st.DataObject, capfd: pytest.CaptureFixture[str]) -> None:
    whole = png.read_bytes()
    cut = png.with_name("cut.png")
    cut.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(DataError, match=r"cut\.png .*bytes"):
        read_image(cut)
    assert capfd.readouterr() == ("", "")


@same_folder_each_time
@given(data=st.data())
def test_every_changed_byte_of_a_png_is_found(
    depth_png: Path, data: st.DataObject, capfd: pytest.CaptureFixture[str]
) -> None:
    content = bytearray(depth_png.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    flipped = depth_png.with_name("flipped.png")
    flipped.write_bytes(content)
    with pytest.raises(DataError, match=r"flipped\.png"):
        read_depth_png(flipped)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_jpeg_is_found(jpg: Path, part: float, capfd: pytest.CaptureFixture[str]) -> None:
    whole = jpg.read_bytes()
    jpg.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(DataError, match=rf"a\.jpg .*{int(part * len(whole))} bytes"):
        read_image(jpg)
    assert capfd.readouterr() == ("", "")


def test_a_jpeg_with_padding_after_its_end_is_whole(jpg: Path) -> None:
    before = read_image(jpg)
    jpg.write_bytes(jpg.read_bytes() + b"\0\0\n")
    np.testing.assert_array_equal(read_image(jpg), before)


def test_a_depth_map_is_no_picture(depth_png: Path) -> None:
    with pytest.raises(DataError, match=r"depth\.png is a 16-bit PNG.*columns in the split"):
        read_image(depth_png)


@pytest.mark.parametrize(
    ("pixels", "what"), [(PICTURE, "8 bits with colours"), (PICTURE[..., 0], "8 bits with one channel")]
)
def test_a_picture_is_no_depth_map(tmp_path: Path, pixels: np.ndarray, what: str) -> None:
    write_picture(tmp_path / "p.png", pixels)
    with pytest.raises(DataError, match=rf"p\.png is a PNG of {what}"):
        read_depth_png(tmp_path / "p.png")


def test_a_jpeg_is_no_depth_map(jpg: Path) -> None:
    with pytest.raises(DataError, match=r"a\.jpg is not a PNG"):
        read_depth_png(jpg)


@pytest.mark.parametrize("read", [read_image, read_depth_png, image_size])
def test_missing_and_foreign_files_are_named(read, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match=r"absent\.png does not exist"):
        read(tmp_path / "absent.png")
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path)
    (tmp_path / "page.png").write_text("<html>404 Not Found</html>" * 3)
    with pytest.raises(DataError, match=r"page\.png is not a .*PNG"):
        read(tmp_path / "page.png")


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_size_of_a_file_that_ends_in_its_header(name: str, tmp_path: Path) -> None:
    write_picture(tmp_path / name, PICTURE)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:20])
    with pytest.raises(DataError, match=rf"{name} is not a whole PNG or JPEG file \(20 bytes"):
        image_size(tmp_path / name)
