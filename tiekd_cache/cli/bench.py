"""`tiekd-cache bench`: what store, stage one and the fused head cost, measured on this machine."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click

from tiekd_cache.cli.common import device_option, json_option, note, parse_size, print_table
from tiekd_cache.cli.teacher_options import speed_options, teacher_options
from tiekd_cache.progress import progress_bar


@click.group()
def bench() -> None:
    """Measure on this machine, on your own data.

    \b
    Example:
      tiekd-cache bench store
      tiekd-cache bench precompute --frames 8
      tiekd-cache bench head
      tiekd-cache bench loader --workers 2
    """


@bench.command()
@click.option(
    "--maps",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="An .npz file of depth maps, metres, an array [n,h,w] a teacher.  [default: made-up streets]",
)
@click.option(
    "--image-size",
    default="352x1216",
    show_default=True,
    metavar="HxW",
    help="Of the pictures; smaller maps in the file are a teacher's own resolution, resized on reading.",
)
@click.option("--repeats", type=click.IntRange(min=1), default=9, show_default=True, help="The median is shown.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Write the bars to this PNG file, too.")
@json_option
def store(path: Path | None, image_size: str, repeats: int, plot: Path | None, as_json: bool) -> None:
    """Bytes and times of the store against PNG, HDF5 and plain Blosc, per frame, in one run.

    Times are CPU time, files are in the page cache. For one core: `taskset -c 1` before the command.

    \b
    Examples:
      tiekd-cache bench store
      tiekd-cache bench store --maps depth_maps.npz --plot bench.png
    """
    from tiekd_cache.bench import bench_store, make_maps, plot_store_bench, read_maps

    size = parse_size(image_size)
    teachers = make_maps(size) if path is None else read_maps(path, size)
    rows = bench_store(teachers, repeats=repeats, progress=progress_bar)
    if as_json:
        click.echo(json.dumps([row.to_json() for row in rows], indent=2))
    else:
        header = ["maps", "kept as", "bytes", "ratio", "encode ms", "ratio", "decode ms", "ratio", "read ms", "ratio"]
        table = [
            [
                row.maps,
                row.coder,
                *(f"{row.num_bytes:.0f}", f"{row.bytes_ratio:.3f}"),
                *(f"{row.encode_ms:.2f}", f"{row.encode_ratio:.3f}"),
                *(f"{row.decode_ms:.2f}", f"{row.decode_ratio:.3f}"),
                *(f"{row.read_ms:.2f}", f"{row.read_ratio:.3f}"),
            ]
            for row in rows
        ]
        print_table(header, table)
    if plot is not None:
        note(f"Plot: {plot_store_bench(rows, plot)}")


@bench.command()
@click.option("--teacher", default="bts-resnet50", show_default=True, help="A network; --weights default to random:0.")
@teacher_options
@click.option("--kitti", type=click.Path(path_type=Path), help="Folder of the KITTI data.  [default: made-up streets]")
@click.option("--split", metavar="FILE|all", help="With --kitti, as for precompute.")
@click.option("--frames", type=click.IntRange(1), help="How many.  [default: 16, or 512 on CUDA]")
@click.option("--flip/--no-flip", "flip_average", default=True, show_default=True, help="Ask about mirror images, too.")
@click.option("--shard-frames", type=click.IntRange(1, 4096), default=64, show_default=True, help="As precompute.")
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True, help="The median is shown.")
@speed_options
@json_option
def precompute(
    teacher: str,
    weights: str | None,
    trained_on: str,
    align: str | None,
    kitti: Path | None,
    split: str | None,
    frames: int | None,
    repeats: int,
    device: str,
    as_json: bool,
    **given: Any,
) -> None:
    """Frames a second of stage one, of the network alone, and of a loop that writes PNG files, taking turns.

    \b
    Examples:
      tiekd-cache bench precompute --frames 8
      tiekd-cache bench precompute --device cuda --precision bf16 --batch-size 8
    """
    from tiekd_cache.bench import RepeatedFrames, bench_precompute
    from tiekd_cache.data.kitti import KittiFrames
    from tiekd_cache.data.synthetic_kitti import write_synthetic_kitti
    from tiekd_cache.precompute import PrecomputeConfig
    from tiekd_cache.teachers import load_teacher

    loaded = load_teacher(teacher, weights=weights or "random:0", device=device, trained_on=trained_on, align=align)
    count = frames or (512 if loaded.device.type == "cuda" else 16)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if kitti is None:
            # a few streets, shown again and again: drawing them takes longer than asking about them
            write_synthetic_kitti(folder / "kitti", train_frames=min(count, 32), test_frames=1)
        source = KittiFrames.open(kitti or folder / "kitti", split, purpose="train")
        config = PrecomputeConfig(**given)
        rows = bench_precompute(loaded, RepeatedFrames(source, count), config, folder, repeats=repeats)
        batch_size = config.rules(loaded, source).batch_size
    if as_json:
        click.echo(json.dumps([row.to_json() for row in rows], indent=2))
        return
    first = rows[0]
    note(f"{first.device}, {first.frames} frames, {loaded.architecture}, {config.precision}, batch {batch_size}")
    table = [[row.way, f"{row.frames_per_second:.2f}", f"{row.ratio:.3f}"] for row in rows]
    print_table(["way", "frames/s", "ratio to the network alone"], table)


@bench.command()
@click.option("--batch", type=click.IntRange(1), default=2, show_default=True, help="Images.")
@click.option("--height", type=click.IntRange(1), default=242, show_default=True, help="Rows of the features.")
@click.option("--width", type=click.IntRange(1), default=704, show_default=True, help="Columns of the features.")
@click.option("--channels", type=click.IntRange(1), default=128, show_default=True, help="Of the features.")
@click.option("--dtype", type=click.Choice(["float32", "bf16", "fp16"]), default="float32", show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, or auto.")
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True, help="The median is shown.")
@json_option
def head(repeats: int, as_json: bool, **given: Any) -> None:
    """Time and memory of the fused head against convolution and released formulas in plain torch, taking turns.

    Forward and backward, each measurement in a process of its own; memory is what comes on top of the inputs.

    \b
    Examples:
      tiekd-cache bench head
      tiekd-cache bench head --device cuda --dtype bf16 --batch 16
    """
    from tiekd_cache.bench import HeadSize, bench_head

    size = HeadSize(**given)
    rows = bench_head(size, repeats=repeats)
    if as_json:
        click.echo(json.dumps([row.to_json() for row in rows], indent=2))
        return
    shape = f"[{size.batch},{size.channels},{size.height},{size.width}]"
    note(f"{rows[0].device}, features {shape}, {size.num_bins} bins, sigma {size.sigma} m, {size.dtype}")
    table = [
        [
            row.way,
            *(f"{row.seconds:.4g}", f"{row.time_ratio:.2f}", f"{row.peak_mb:.0f}", f"{row.memory_ratio:.2f}"),
            *(f"{row.matmul_share:.3f}", f"{row.copy_share:.3f}"),
        ]
        for row in rows
    ]
    print_table(["way", "s", "times faster", "MB", "times less", "of matmul rate", "of copy rate"], table)


@bench.command()
@click.option("--kitti", type=click.Path(path_type=Path), help="Folder of the KITTI data.  [default: made-up streets]")
@click.option("--split", metavar="FILE|all", help="With --kitti, as for distill.")
@click.option("--store", "path", type=click.Path(path_type=Path), help="Its responses.  [default: dense made-up ones]")
@click.option("--samples", type=click.IntRange(1), default=128, show_default=True, help="A turn, at most 256 frames.")
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Samples a batch.")
@click.option("--crop", default="352x704", show_default=True, metavar="HxW", help="Of the samples.")
@click.option("--workers", type=click.IntRange(0), default=0, show_default=True, help="Loader processes.")
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True, help="The median is shown.")
@device_option
@json_option
def loader(
    kitti: Path | None,
    split: str | None,
    path: Path | None,
    samples: int,
    batch_size: int,
    crop: str,
    workers: int,
    repeats: int,
    device: str,
    as_json: bool,
) -> None:
    """Training samples a second: the loader, decoding the pictures alone, a folder of PNG files, taking turns.

    \b
    Examples:
      tiekd-cache bench loader --workers 2
      tiekd-cache bench loader --kitti data/kitti --store stores/bts.zarr --workers 8 --samples 1024
    """
    from tiekd_cache.bench import LoaderSettings, bench_loader, made_up_store
    from tiekd_cache.data.kitti import KittiFrames
    from tiekd_cache.data.synthetic_kitti import write_synthetic_kitti
    from tiekd_cache.device import resolve_device
    from tiekd_cache.store import open_store

    if path is not None and kitti is None:
        raise click.UsageError("--store goes with --kitti: it must answer the pictures.")
    settings = LoaderSettings(
        max(samples, batch_size), batch_size, workers, parse_size(crop), device=resolve_device(device)
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if kitti is None:
            # a few streets, shown again and again: drawing them takes longer than loading them
            write_synthetic_kitti(folder / "kitti", train_frames=min(samples, 32), test_frames=1)
        source = KittiFrames.open(kitti or folder / "kitti", split, purpose="train")
        if path is None:
            chosen = source.subset(source.frame_ids[:256])
            store = made_up_store(chosen, folder / "made-up.zarr")
        else:
            store = open_store(path)
            chosen = source.subset([frame_id for frame_id in source.frame_ids if frame_id in store][:256])
        (folder / "png").mkdir()
        rows = bench_loader(chosen, store, settings, folder / "png", repeats=repeats)
    if as_json:
        click.echo(json.dumps([row.to_json() for row in rows], indent=2))
        return
    note(f"{rows[0].samples} samples, {workers} loader processes, batches of {batch_size}, to {settings.device}")
    table = [[row.way, f"{row.samples_per_second:.1f}", f"{row.ratio:.3f}"] for row in rows]
    print_table(["way", "samples/s", "ratio to decoding alone"], table)
