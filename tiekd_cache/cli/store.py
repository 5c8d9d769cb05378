"""`tiekd-cache info` and `tiekd-cache verify`: looking at a store, and looking whether it is whole."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tiekd_cache.cli.common import device_option, json_option, named_store, note, only_store, print_result, say
from tiekd_cache.cli.signing import read_signers, trust_option
from tiekd_cache.cli.source_options import open_source, source_options
from tiekd_cache.errors import StoreError
from tiekd_cache.progress import progress_bar

if TYPE_CHECKING:
    from tiekd_cache.store.signature import Signed
    from tiekd_cache.teacher_check import TeacherCheck


@click.command()
@click.argument("store", type=named_store, required=False)
@trust_option
@json_option
def info(store: str | Path | None, trust_file: Path | None, as_json: bool) -> None:
    """What a store holds, who made it and from what, and whether its depths agree with ground truth.

    \b
    Example:
      tiekd-cache info stores/bts.zarr
      tiekd-cache info https://data.example.org/stores/bts.zarr
      tiekd-cache info https://data.example.org/stores/bts.zarr --trust allowed_signers
    """
    from tiekd_cache.statistics import read_statistics
    from tiekd_cache.store import open_store
    from tiekd_cache.store.images import images_summary

    trust = read_signers(trust_file)
    path = store if store is not None else only_store()
    opened = open_store(path, allow_partial=True, trust=trust)
    statistics = read_statistics(path, opened.signed)
    facts = opened.info.to_json()
    unit = statistics.unit_warning(opened.info.schema.teacher)
    facts["warning"] = "; ".join(text for text in (facts["warning"], unit) if text) or None
    facts["statistics"] = statistics.to_json()
    try:
        facts["images"] = images_summary(path, opened.signed)
    except StoreError as error:  # they do not stand in the responses' way
        if trust is not None:
            raise
        facts["images"] = None
        note(f"Warning: {error}")
    facts["signature"] = _unchecked_signature(path) if opened.signed is None else opened.signed.to_json()
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        _print_info(facts)
    if trust is None and facts["signature"]:
        note("Note: whether the signature holds, and whose it is, only --trust tells.")
    for line in statistics.notes:
        note(f"Note: {line}")
    if facts["warning"]:
        note(f"Warning: {facts['warning']}")


def _unchecked_signature(path: str | Path) -> dict[str, str] | None:
    """What the signature of a store says of itself, as JSON values; None where it has none that can be read."""
    from tiekd_cache.store.chunks import Damage
    from tiekd_cache.store.object_path import store_path
    from tiekd_cache.store.signature import read_signature

    try:
        found = read_signature(store_path(path))
    except Damage as damage:
        note(f"Warning: the signature counts for nothing: {damage}")
        return None
    return None if found is None else {"key": found.key.fingerprint, "signed_at": found.manifest.signed_at}


def _print_info(facts: dict[str, Any]) -> None:
    apart = ("skipped", "statistics")
    print_result({name: value for name, value in facts.items() if name not in apart}, as_json=False)
    found = facts["statistics"]
    if found is not None:
        truth = found["ground_truth"]
        compared = "nothing compared"
        if truth["frames"]:
            compared = f"{truth['frames']} frames, abs_rel {truth['abs_rel']}, median ratio {truth['median_ratio']}"
        say(f"missing pixels  {found['missing_share']:.2%}")
        say(f"ground truth    {compared}")
        say(f"depth           {found['nearest_m']} .. {found['farthest_m']} m, of the pixels that have any:")
        shares = list(found["histogram"].items())
        while shares and not shares[-1][1]:
            shares.pop()
        for name, share in shares:
            say(f"  {name:>9}  {share:7.2%}  {'#' * round(60 * share)}".rstrip())
        for line in truth["unreadable"]:
            say(f"ground truth not compared: {line}")
    for frame in facts["skipped"]:
        say(f"no response to {frame['frame_id']}: {frame['reason']}")


@click.command()
@click.argument("store", type=named_store, required=False)
@trust_option
@click.option(
    "--repair", is_flag=True, help="Drop what is wrong, so that the next precompute, push or pull brings it anew."
)
@click.option(
    "--against-teacher",
    "count",
    type=click.IntRange(1),
    metavar="N",
    help="Also run the teacher again on N random frames and compare.",
)
@click.option("--weights", metavar="FILE|random:SEED", help="The teacher's weights.  [default: as for precompute]")
@click.option("--teacher", metavar="PACKAGE.MODULE:FACTORY", help="The teacher, where it is one of your own.")
@source_options
@click.option("--seed", type=int, default=0, show_default=True, help="Chooses the N frames.")
@device_option
@json_option
def verify(
    store: str | Path | None,
    trust_file: Path | None,
    repair: bool,
    count: int | None,
    weights: str | None,
    teacher: str | None,
    seed: int,
    device: str,
    as_json: bool,
    **data: Any,
) -> None:
    """Read everything in a store and compare it with its digests. Exits with 1 where something is wrong.

    \b
    Examples:
      tiekd-cache verify stores/bts.zarr
      tiekd-cache verify stores/bts.zarr --repair
      tiekd-cache verify stores/bts.zarr --against-teacher 8
      tiekd-cache verify stores/bts.zarr --trust allowed_signers
    """
    from tiekd_cache.store import verify_store
    from tiekd_cache.store.object_path import store_path
    from tiekd_cache.store.repair import is_repairable
    from tiekd_cache.store.signature import signed_by

    trust = read_signers(trust_file)
    path = store if store is not None else only_store()
    signed = signed_by(store_path(path), trust)
    compare = None if count is None else _prepare_teacher(path, weights, teacher, data, device, signed)
    report = verify_store(path, repair=repair, progress=progress_bar, trust=signed)
    result = report.to_json() | ({} if signed is None else {"signature": signed.to_json()})
    problems = list(report.problems)
    if compare is not None and count is not None and report.whole and report.frames_checked:
        result["teacher"] = compare(count, seed).to_json()
        problems += result["teacher"]["problems"]
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        shown = {"store": str(report.path), "frames": report.num_frames, "frames_whole": report.frames_checked}
        if signed is not None:
            shown["signature"] = result["signature"]
        if "teacher" in result:
            shown["frames_asked_again"] = result["teacher"]["frames"]
            shown["worst"] = {name: result["teacher"]["worst"][name] for name in ("frame_id", "difference")}
            shown["tolerance_m"] = result["teacher"]["tolerance"]
        print_result({**shown, "problems": len(problems)}, as_json=False)
    for line in report.notes:
        note(f"Note: {line}")
    for problem in problems:
        note(f"Problem: {problem}")
    if report.repaired:
        note("What is wrong was dropped. Run the same `precompute`, `push` or `pull` again to bring it anew.")
    elif report.problems and not repair and report.num_frames:
        if is_repairable(report.path):
            note("Pass --repair to drop what is wrong, then run the same `precompute`, `push` or `pull` again.")
        else:
            note("Here it can only be read. Tell whoever made the store, or take another copy.")
    if count is not None and "teacher" not in result:
        note("The teacher was not run: first the store must be whole, and hold some frames.")
    sys.exit(0 if report.whole and len(problems) == len(report.problems) else 1)


def _prepare_teacher(
    path: str | Path,
    weights: str | None,
    chosen: str | None,
    data: dict[str, Any],
    device: str,
    signed: Signed | None,
) -> Callable[[int, int], TeacherCheck] | None:
    """What compares (count, seed) frames; every mistake of the user shows now, not after an hour of reading.

    None where the store cannot be opened: `verify` will say why.
    """
    from tiekd_cache.store import open_store
    from tiekd_cache.teacher_check import check_against_teacher, check_same, teacher_settings, teacher_to_run
    from tiekd_cache.teachers import load_teacher

    try:
        opened = open_store(path, allow_partial=True, trust=signed)
    except StoreError:
        return None
    name, found = teacher_to_run(opened.schema, weights, chosen)
    # the store says which frames are compared: that others of the split are missing does not matter
    source = open_source({**data, "skip_missing": data["images"] is None}, "train")
    teacher = load_teacher(name, weights=found, device=device, **teacher_settings(opened.schema))
    check_same(opened, teacher, source)
    return lambda count, seed: check_against_teacher(opened, teacher, source, count, seed=seed)
