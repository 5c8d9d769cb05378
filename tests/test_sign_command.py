"""Signing a store and asking who signed it, as a user types it: one good way, and every refusal in one line."""

from __future__ import annotations

import importlib.util
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from e2e.command_line import Outcome, environment, fail, succeed, tiekd
from servers import FaultServer
from signing_helpers import needs_bcrypt, write_key
from store_helpers import depth_maps, make_store, open_writer, write_all

from tiekd_cache.data.synthetic_kitti import write_synthetic_kitti
from tiekd_cache.store.catalogue import open_catalogue
from tiekd_cache.store.claims import claim_shard
from tiekd_cache.store.images import open_images
from tiekd_cache.store.signature import FILE

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "--no-pretrained", "--batch-size", "2", "--crop", "64x96", "--decoder-width", "0.125", "--sigma", "2.5",
    "--set", "student.num_bins=33", "--set", "train.picture_frames=1", "--steps", "1", "--validate-frames", "0",
]  # fmt: skip
TRUST = ["--trust", "allowed_signers"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """KITTI's data, a store with images that `precompute --sign` made and signed, keys of Ann and Ben, trust in Ann."""
    home = tmp_path_factory.mktemp("home")
    write_synthetic_kitti(home / "data" / "kitti", train_frames=2, test_frames=1)
    ann = write_key(home / "ann")
    write_key(home / "ben", "ben@lab")
    (home / "allowed_signers").write_text(f'ann@lab namespaces="tiekd-cache,git" {ann.public.line}\n')
    made = ["precompute", "--teacher", "lidar", "--shard-frames", "1", "--with-images", "--sign", "ann"]
    outcome = succeed(*made, cwd=home)
    assert f"Signed with {ann.public.fingerprint}: 2 of 2 responses and 2 of 2 images" in outcome.err
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(made, tmp_path / "home"))


def edit(home: Path, name: str) -> None:
    """Change the spelling of a JSON file of the store: no digest in it is wrong then."""
    file = home / "stores" / "lidar.zarr" / name
    file.write_text(json.dumps(json.loads(file.read_bytes()), indent=3))


def unsign(home: Path) -> None:
    (home / "stores" / "lidar.zarr" / FILE).unlink()


def sign_as_ben(home: Path) -> None:
    succeed("sign", "stores/lidar.zarr", "--key", "ben", cwd=home)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [["--workers", "0"], ["--workers", "2", "--cache-dir", "cache"], ["--workers", "0", "--store", "stores"]]
)
def test_a_signed_store_is_trained_from_and_the_run_names_its_signer(home: Path, options: list[str]) -> None:
    with FaultServer(home / "stores") as server:
        if "--cache-dir" in options:
            pytest.importorskip("obstore", reason="obstore is not installed")
            options = [*options, "--store", f"{server.url}/lidar.zarr"]
        elif "--store" in options:  # a catalogue with another copy, which is not signed and has no images
            ignored = shutil.ignore_patterns(FILE, "images")
            shutil.copytree(home / "stores" / "lidar.zarr", home / "stores" / "a.zarr", ignore=ignored)
        succeed("distill", *SMALL, *TRUST, *options, "--images-from-store", "--run", "run", cwd=home)
    [store] = json.loads((home / "run" / "run.json").read_text())["stores"]
    assert store["signed"]["signer"] == "ann@lab"
    assert store["signed"]["key"].startswith("SHA256:")


def test_what_was_signed_is_verified_shown_listed_and_moved(home: Path, tmp_path: Path) -> None:
    said = succeed("verify", *TRUST, "--json", cwd=home).json
    assert (said["whole"], said["signature"]["signer"], said["notes"]) == (True, "ann@lab", [])
    assert succeed("verify", "--trust", "ann.pub", "--json", cwd=home).json["signature"]["signer"] == "ann@lab"
    assert succeed("info", *TRUST, "--json", cwd=home).json["signature"]["signer"] == "ann@lab"
    unasked = succeed("info", "--json", cwd=home)
    assert set(unasked.json["signature"]) == {"key", "signed_at"}
    assert "only --trust tells" in unasked.err
    make_store(home / "stores" / "plain.zarr")
    listed = succeed("list", *TRUST, cwd=home)
    assert [line.split()[:2] for line in listed.out.splitlines()[1:]] == [
        ["lidar.zarr", "ann@lab"],
        ["plain.zarr", "-"],
    ]
    assert "Not trusted: plain.zarr: " in listed.err
    signers = {store["name"]: store["signer"] for store in succeed("list", *TRUST, "--json", cwd=home).json}
    assert signers == {"lidar.zarr": "ann@lab", "plain.zarr": None}
    assert "signer" not in succeed("list", "--json", cwd=home).json[0]
    shutil.copytree(home / "stores" / "lidar.zarr", home / "edited" / "lidar.zarr")
    (home / "edited" / "lidar.zarr" / "frame_id" / "c" / "0").write_bytes(b"")
    edited = succeed("list", "edited", *TRUST, cwd=home)
    assert "is not the one that was signed" in edited.err
    assert edited.out.splitlines()[1].split()[1] == "-"
    succeed("push", "stores/lidar.zarr", "team/lidar.zarr", cwd=home)
    succeed("pull", "team/lidar.zarr", "mine.zarr", *TRUST, cwd=home)
    assert succeed("verify", "mine.zarr", *TRUST, "--json", cwd=home).json["whole"]
    signed = succeed("push", "stores/plain.zarr", "team/plain.zarr", "--sign", "ann", "--json", cwd=home)
    assert signed.json["frames"] == 10
    assert "Signed with SHA256:" in signed.err
    assert succeed("verify", "team/plain.zarr", *TRUST, "--json", cwd=home).json["frames_checked"] == 10


READERS: dict[str, Callable[[str], list[str]]] = {
    "verify": lambda store: ["verify", store],
    "info": lambda store: ["info", store],
    "distill": lambda store: ["distill", *SMALL, "--workers", "0", "--images-from-store", "--store", store],
    "pull": lambda store: ["pull", store, "mine.zarr"],
}


@pytest.mark.parametrize(
    ("reader", "place"),
    [*((reader, place) for reader in READERS for place in ("folder", "zip", "url")), ("distill", "cache")],
)
def test_every_reader_says_which_it_is(home: Path, reader: str, place: str) -> None:
    if place in ("url", "cache"):
        pytest.importorskip("obstore", reason="obstore is not installed")
    changes: list[tuple[Callable[[Path], None], str]] = [
        (unsign, "is not signed: it has no file signature"),
        (sign_as_ben, "is signed with the key SHA256:"),
        (lambda home: edit(home, "zarr.json"), "is not the one that was signed: it was changed since"),
        (lambda home: edit(home, "done/00001.json"), "is not the one that was signed: it was changed since"),
    ]
    store = home / "stores" / "lidar.zarr"
    whole = shutil.copytree(store, home / "whole")
    with FaultServer(home / "stores") as server:
        for number, (change, message) in enumerate(changes):
            shutil.rmtree(store)
            shutil.copytree(whole, store)
            change(home)
            where = {"folder": "stores/lidar.zarr", "zip": f"{number}.zip"}.get(place, f"{server.url}/lidar.zarr")
            if place == "zip":
                shutil.make_archive(str(home / str(number)), "zip", store)
            options = ["--cache-dir", f"cache-{number}"] if place == "cache" else []
            outcome = tiekd(*READERS[reader](where), *options, *TRUST, cwd=home)
            assert outcome.code == 1
            lines = [line for line in outcome.err.splitlines() if message in line]
            assert len(lines) == 1, outcome.err
            assert lines[0].startswith(("Error: ", "Problem: "))
            if reader == "verify":
                assert tiekd("verify", where, cwd=home).code == 0, "whoever does not ask reads it as before"
    assert not (home / "runs").exists(), "no training began"


def test_a_shard_added_by_a_later_precompute_is_said_there_and_refused_by_who_asks(home: Path) -> None:
    store = home / "stores" / "lidar.zarr"
    for name in ("done/00001.json", "images/done/00001.json"):
        (store / name).unlink()
    part = succeed("sign", "stores/lidar.zarr", "--key", "ann", "--json", cwd=home)
    assert [part.json[name] for name in ("responses", "responses_when_finished", "images")] == [1, 2, 1]
    assert "does not hold for what is added later" in part.err
    assert succeed("info", *TRUST, "--json", cwd=home).json["frames_done"] == 1
    resume = ["precompute", "--teacher", "lidar", "--shard-frames", "1", "--with-images"]
    grown = succeed(*resume, cwd=home)
    assert "has changed since" in grown.err
    assert "tiekd-cache sign" in grown.err
    assert "1 finished shards (the first: done/00001.json) that ann@lab has not signed" in fail(
        "info", *TRUST, cwd=home
    )
    again = succeed(*resume, "--sign", "ann", cwd=home)
    assert "has changed since" not in again.err
    assert succeed("verify", *TRUST, "--json", cwd=home).json["whole"]


@pytest.mark.slow
def test_a_part_made_by_one_of_several_starts_is_not_signed_yet(home: Path) -> None:
    command = ["precompute", "--teacher", "lidar", "--shard-frames", "1", "--store", "two.zarr", "--sign", "ann"]
    first = succeed(*command, "--with-images", "--shard-range", "0:1", cwd=home)
    assert "is not signed, as it is not finished (responses are missing)" in first.err
    images = open_images(open_catalogue(home / "two.zarr"))
    assert images is not None
    with claim_shard(images.layout, 1) as mine:  # another process is at it
        assert mine
        second = succeed(*command, "--with-images", cwd=home)
    assert "is not signed, as it is not finished (images are missing)" in second.err
    assert not (home / "two.zarr" / FILE).exists()
    part = succeed("sign", "two.zarr", "--key", "ann", cwd=home)
    assert "2 of 2 responses and 1 of 2 images" in part.err
    assert "does not hold for what is added later" in part.err
    succeed(*command, "--with-images", cwd=home)
    said = succeed("verify", "two.zarr", *TRUST, "--json", cwd=home).json
    assert (said["whole"], said["notes"]) == (True, [])


def test_merged_parts_of_two_people_are_not_signed_and_the_note_says_so(home: Path) -> None:
    for name, shards in (("ann", (0, 1)), ("ben", (2,))):
        writer = open_writer(home / f"{name}.zarr")
        for shard in shards:
            with writer.claim(shard):
                writer.write_shard(shard, depth_maps(10)[4 * shard : 4 * shard + 4])
        succeed("sign", f"{name}.zarr", "--key", name, cwd=home)
    merged = succeed("merge", "ann.zarr", "ben.zarr", "--into", "whole.zarr", cwd=home)
    assert "Note: the signature by SHA256:" in merged.err
    assert "is not signed" in fail("verify", "whole.zarr", *TRUST, cwd=home)
    write_all(open_writer(home / "whole.zarr"), depth_maps(10))
    succeed("sign", "whole.zarr", "--key", "ann", cwd=home)
    assert succeed("verify", "whole.zarr", *TRUST, "--json", cwd=home).json["frames_checked"] == 10


def test_changed_images_are_refused(made: Path, home: Path) -> None:
    edit(home, "images/zarr.json")
    assert "images/zarr.json" in fail("info", *TRUST, cwd=home)
    shutil.copy(made / "stores/lidar.zarr/images/zarr.json", home / "stores/lidar.zarr/images/zarr.json")
    edit(home, "images/done/00000.json")
    line = fail("distill", *SMALL, *TRUST, "--workers", "0", "--images-from-store", cwd=home)
    assert "images/done/00000.json" in line
    assert "is not the one that was signed" in line


def test_verify_repairs_what_is_not_as_signed_and_a_pull_brings_it_back(home: Path) -> None:
    succeed("push", "stores/lidar.zarr", "team.zarr", cwd=home)
    edit(home, "done/00001.json")
    assert succeed("verify", *TRUST, "--repair", cwd=home).err.count("Problem: ") == 1
    assert not (home / "stores" / "lidar.zarr" / "done" / "00001.json").exists()
    succeed("pull", "team.zarr", "stores/lidar.zarr", *TRUST, cwd=home)
    assert succeed("verify", *TRUST, "--json", cwd=home).json["frames_checked"] == 2


@pytest.mark.parametrize("command", [["sign", "--key"], ["push", "stores/lidar.zarr", "t.zarr", "--sign"]])
def test_keys_that_cannot_sign_are_one_line_and_nothing_is_done(home: Path, command: list[str]) -> None:
    before = (home / "stores" / "lidar.zarr" / FILE).read_bytes()
    assert "cannot be read: No such file" in fail(*command, "nowhere", cwd=home)
    assert "is a public key" in fail(*command, "ann.pub", cwd=home)
    assert "ssh-keygen -t ed25519" in fail(*command, "allowed_signers", cwd=home)
    assert (home / "stores" / "lidar.zarr" / FILE).read_bytes() == before
    assert not (home / "t.zarr").exists()


def test_a_key_that_cannot_sign_stops_precompute_before_the_work(home: Path) -> None:
    line = fail("precompute", "--teacher", "lidar", "--store", "new.zarr", "--sign", "ann.pub", cwd=home)
    assert "is a public key" in line
    assert not (home / "new.zarr").exists()


def test_files_of_signers_that_cannot_be_used_are_one_line(home: Path) -> None:
    assert "cannot be read: No such file" in fail("verify", "--trust", "nowhere", cwd=home)
    assert "is a private key" in fail("info", "--trust", "ann", cwd=home)
    (home / "empty").write_text("")
    assert "names no ed25519 key" in fail("list", "--trust", "empty", cwd=home)


@pytest.mark.parametrize("command", [["sign", "--key", "ann"], ["verify", *TRUST], ["list", *TRUST]])
def test_without_cryptography_one_line_says_what_to_install(
    home: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "cryptography" else find(name))
    assert "pip install 'tiekd-cache[sign]'" in fail(*command, cwd=home)
    assert succeed("verify", cwd=home).code == 0, "nothing else needs it"


@pytest.mark.skipif(not (shutil.which("ssh-keygen") and shutil.which("csplit")), reason="no ssh-keygen, or no csplit")
def test_ssh_keygen_checks_a_store_as_documented_and_signs_what_we_take(home: Path) -> None:
    [block] = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "sharing.md").read_text(), re.S)
    commands = block.replace("bts.zarr", "stores/lidar.zarr")
    said = subprocess.run(["sh", "-ec", commands], cwd=home, capture_output=True, text=True, check=True)
    assert 'Good "tiekd-cache" signature for ann@lab' in said.stdout
    resign = "ssh-keygen -Y sign -f ben -n tiekd-cache part.00 && cat part.00 part.00.sig > stores/lidar.zarr/signature"
    subprocess.run(["sh", "-ec", resign], cwd=home, capture_output=True, check=True)
    signature = succeed("verify", "--trust", "ben.pub", "--json", cwd=home).json["signature"]
    assert signature["signer"] == "ben@lab"


@needs_bcrypt
def test_a_passphrase_is_asked_for_at_the_terminal_and_never_shown(home: Path) -> None:
    write_key(home / "locked", passphrase="geheim")
    assert "there is no terminal to ask for it" in fail("sign", "--key", "locked", cwd=home)
    outcome = at_a_terminal(["sign", "--key", "locked"], "geheim\n", home)
    assert outcome.code == 0, outcome.err
    assert "Passphrase of locked" in outcome.err
    assert "geheim" not in outcome.out + outcome.err


def at_a_terminal(arguments: list[str], typed: str, cwd: Path) -> Outcome:
    """The command with a terminal to type at; all that the terminal shows counts as stderr."""
    ours, theirs = pty.openpty()
    env = environment(PYTHONPATH=f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    command = [sys.executable, "-m", "tiekd_cache", *arguments]
    process = subprocess.Popen(
        command, cwd=cwd, env=env, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    shown = b""
    while b"Passphrase" not in shown:
        shown += os.read(ours, 1024)
    os.write(ours, typed.encode())
    out, _ = process.communicate()
    while True:
        try:
            data = os.read(ours, 1024)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        shown += data
    os.close(ours)
    return Outcome(process.returncode, out.decode(), shown.decode())
