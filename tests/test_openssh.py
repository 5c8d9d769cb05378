"""OpenSSH's keys, signatures and allowed_signers files: as ssh-keygen has them, and nothing else is taken."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hostile import in_little_memory
from hypothesis import given
from hypothesis import strategies as st
from signing_helpers import needs_bcrypt, write_key

from tiekd_cache.errors import ConfigError
from tiekd_cache.openssh import PublicKey, Signers, SigningKey, sshsig

NAMESPACE = "tiekd-cache"
MESSAGE = b'{"what": "is signed"}\n'
KEYGEN = shutil.which("ssh-keygen")
needs_keygen = pytest.mark.skipif(KEYGEN is None, reason="there is no ssh-keygen on this machine")


def keygen(*arguments: object, **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([str(KEYGEN), *map(str, arguments)], capture_output=True, check=False, **options)  # type: ignore[call-overload, no-any-return]


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "id_ed25519"
    write_key(file)
    return file


@pytest.fixture(scope="module")
def key(key_file: Path) -> SigningKey:
    return SigningKey.load(key_file, never)


def never() -> str:
    raise AssertionError("a passphrase was asked for")


def test_a_signature_is_that_of_its_message_key_and_purpose(key: SigningKey) -> None:
    armored = sshsig.sign(MESSAGE, key, NAMESPACE)
    assert sshsig.signer(armored, NAMESPACE) == key.public
    assert sshsig.is_signed(MESSAGE, armored, NAMESPACE)
    assert not sshsig.is_signed(MESSAGE + b"\n", armored, NAMESPACE)
    with pytest.raises(ValueError, match="for another purpose than 'git'"):
        sshsig.signer(armored, "git")


def test_a_key_that_only_claims_to_be_the_signer_does_not_verify(key: SigningKey, tmp_path: Path) -> None:
    other = write_key(tmp_path / "other")
    forged = sshsig._armored(key.public, other.sign(sshsig._signed_data(MESSAGE, NAMESPACE)), NAMESPACE)
    assert sshsig.signer(forged, NAMESPACE) == key.public
    assert not sshsig.is_signed(MESSAGE, forged, NAMESPACE)


@given(data=st.binary(max_size=400))
def test_bytes_that_are_no_signature_are_refused_by_ValueError(data: bytes) -> None:
    for text in (data, sshsig.BEGIN + data):
        with pytest.raises(ValueError, match=r"."):
            sshsig.signer(text, NAMESPACE)


def test_another_spelling_of_the_same_signature_is_refused(key: SigningKey) -> None:
    armored = sshsig.sign(MESSAGE, key, NAMESPACE)
    spellings: list[Callable[[bytes], bytes]] = [
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text + b"\n",
        lambda text: sshsig.BEGIN + text.removeprefix(sshsig.BEGIN).replace(b"\n", b"", 1),
        lambda text: text.replace(b"==\n", b"=\n"),
        lambda text: text.removesuffix(b"-----END SSH SIGNATURE-----\n"),
    ]
    for spell in spellings:
        changed = spell(armored)
        assert changed != armored
        with pytest.raises(ValueError, match=r"spelled|no SSH signature"):
            sshsig.signer(changed, NAMESPACE)


@needs_keygen
def test_ssh_keygen_takes_our_signature_and_key(key: SigningKey, key_file: Path, tmp_path: Path) -> None:
    (tmp_path / "sig").write_bytes(sshsig.sign(MESSAGE, key, NAMESPACE))
    (tmp_path / "allowed").write_text(f"ann@lab {key.public.line}\n")
    arguments = ("-Y", "verify", "-f", tmp_path / "allowed", "-I", "ann@lab", "-s", tmp_path / "sig", "-n")
    assert keygen(*arguments, NAMESPACE, input=MESSAGE).returncode == 0
    assert keygen(*arguments, NAMESPACE, input=MESSAGE + b" ").returncode != 0
    assert keygen(*arguments, "git", input=MESSAGE).returncode != 0
    listed = keygen("-l", "-f", f"{key_file}.pub").stdout.decode().split()
    assert listed[1] == key.public.fingerprint


@needs_keygen
def test_we_take_what_ssh_keygen_signs_to_the_byte(tmp_path: Path) -> None:
    assert keygen("-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "id").returncode == 0
    (tmp_path / "message").write_bytes(MESSAGE)
    assert keygen("-Y", "sign", "-f", tmp_path / "id", "-n", NAMESPACE, tmp_path / "message").returncode == 0
    theirs = (tmp_path / "message.sig").read_bytes()
    assert sshsig.is_signed(MESSAGE, theirs, NAMESPACE)
    assert sshsig.sign(MESSAGE, SigningKey.load(tmp_path / "id", never), NAMESPACE) == theirs
    assert Signers.read(tmp_path / "id.pub").name_of(sshsig.signer(theirs, NAMESPACE), NAMESPACE) is not None


@needs_keygen
@needs_bcrypt
def test_a_key_of_ssh_keygen_with_a_passphrase(tmp_path: Path) -> None:
    assert keygen("-q", "-t", "ed25519", "-N", "geheim", "-f", tmp_path / "id").returncode == 0
    key = SigningKey.load(tmp_path / "id", lambda: "geheim")
    assert key.public == PublicKey.from_base64((tmp_path / "id.pub").read_text().split()[1])


@needs_bcrypt
def test_a_wrong_passphrase_is_one_line_that_does_not_repeat_it(tmp_path: Path) -> None:
    write_key(tmp_path / "id", passphrase="geheim")
    for said in ("falsch", ""):
        with pytest.raises(ConfigError, match="the passphrase is wrong, or it is no ed25519") as caught:
            SigningKey.load(tmp_path / "id", lambda said=said: said)  # type: ignore[misc]
        assert "geheim" not in str(caught.value)
        assert "falsch" not in str(caught.value)


@needs_keygen
def test_a_passphrase_without_bcrypt_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert keygen("-q", "-t", "ed25519", "-N", "geheim", "-f", tmp_path / "id").returncode == 0
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bcrypt" else object())
    with pytest.raises(ConfigError, match=r"needs bcrypt: pip install 'tiekd-cache\[sign\]'"):
        SigningKey.load(tmp_path / "id", never)


def test_without_cryptography_signing_and_checking_say_what_to_install(
    key: SigningKey, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    armored = sshsig.sign(MESSAGE, key, NAMESPACE)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for work in (
        lambda: SigningKey.load(key_file, never),
        lambda: sshsig.is_signed(MESSAGE, armored, NAMESPACE),
    ):
        with pytest.raises(ConfigError, match=r"Signatures need cryptography: pip install 'tiekd-cache\[sign\]'"):
            work()
    assert sshsig.signer(armored, NAMESPACE) == key.public, "only reading needs none"


@needs_keygen
@pytest.mark.parametrize("options", [("-t", "rsa", "-b", "2048"), ("-t", "ecdsa"), ("-t", "rsa", "-m", "PEM")])
def test_keys_of_other_kinds_are_refused_and_the_line_says_ed25519(tmp_path: Path, options: tuple[str, ...]) -> None:
    assert keygen("-q", *options, "-N", "", "-f", tmp_path / "id").returncode == 0
    with pytest.raises(ConfigError, match="ssh-keygen -t ed25519"):
        SigningKey.load(tmp_path / "id", never)
    with pytest.raises(ConfigError, match="names no ed25519 key"):
        Signers.read(tmp_path / "id.pub")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"id cannot be read: No such file"),
        (b"", r"cannot be used .*only those sign"),
        (b"\x00\xff nonsense", r"cannot be used .*only those sign"),
        (b"ssh-ed25519 AAAA ann@lab\n", r"id is a public key: signing takes the private one"),
    ],
)
def test_files_that_hold_no_private_key_are_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "id").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        SigningKey.load(tmp_path / "id", never)


def test_a_private_key_shows_nothing_of_itself(key: SigningKey) -> None:
    secret = key._private.private_bytes_raw()
    for text in (repr(key), str(key), repr(vars(key))):
        assert secret.hex() not in text
        assert repr(secret)[2:-1] not in text


NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("options", "trusted"),
    [
        ("", True),
        ('namespaces="tiekd-cache" ', True),
        ('namespaces="git,tiekd-*" ', True),
        ('namespaces="git" ', False),
        ('namespaces="*,!tiekd-cache" ', False),
        ('valid-after="20260501Z",valid-before="20260502Z" ', True),
        ('valid-after="20260501120001Z" ', False),
        ('valid-after="202605011200Z" ', True),
        ('valid-before="20260501115959Z" ', False),
        ('valid-before="20260430Z",namespaces="tiekd-cache" ', False),
        ('NAMESPACES="git" ', False),
        ("cert-authority ", False),
    ],
)
def test_the_options_of_allowed_signers_are_obeyed_as_by_ssh_keygen(
    key: SigningKey, tmp_path: Path, options: str, trusted: bool
) -> None:
    other = write_key(tmp_path / "other")
    file = tmp_path / "allowed"
    file.write_text(f"ann@lab {options}{key.public.line} a comment\nben@lab {other.public.line}\n")
    found = Signers.read(file)
    assert found.name_of(key.public, NAMESPACE, NOW) == ("ann@lab" if trusted else None)
    assert found.name_of(other.public, NAMESPACE, NOW) == "ben@lab"
    assert by_ssh_keygen(file, key) in (trusted, None)


@pytest.mark.parametrize(
    "options",
    [
        'namespaces="git",namespaces="tiekd-cache"',
        'namespaces="tiekd-cache",NAMESPACES="tiekd-cache"',
        'valid-after="20200101Z",valid-after="20200102Z"',
        'valid-before="20990101Z",valid-before="20990101Z"',
        'namespaces="tiekd-cache",',
        'namespaces=""',
    ],
)
def test_options_that_ssh_keygen_does_not_take_are_an_error(key: SigningKey, tmp_path: Path, options: str) -> None:
    file = tmp_path / "allowed"
    file.write_text(f"ann@lab {options} {key.public.line}\n")
    with pytest.raises(ConfigError, match=r"allowed:1: .* option"):
        Signers.read(file)
    assert not by_ssh_keygen(file, key)


def by_ssh_keygen(allowed: Path, key: SigningKey) -> bool | None:
    """Whether ssh-keygen takes ann@lab's signature then; None where there is no ssh-keygen."""
    if KEYGEN is None:
        return None
    signature = allowed.with_name("sig")
    signature.write_bytes(sshsig.sign(MESSAGE, key, NAMESPACE))
    arguments = ("-Y", "verify", "-f", allowed, "-I", "ann@lab", "-n", NAMESPACE, "-s", signature)
    return keygen(*arguments, f"-Overify-time={NOW:%Y%m%d%H%M%SZ}", input=MESSAGE).returncode == 0


def test_times_without_Z_are_local(key: SigningKey, tmp_path: Path) -> None:
    file = tmp_path / "allowed"
    file.write_text(f'ann@lab valid-before="20260501120000" {key.public.line}\n')
    noon = datetime(2026, 5, 1, 12).astimezone()
    assert Signers.read(file).name_of(key.public, NAMESPACE, noon) == "ann@lab"
    assert Signers.read(file).name_of(key.public, NAMESPACE, noon + timedelta(seconds=1)) is None


def test_files_that_trust_somebody_are_read_in_either_form(key: SigningKey, tmp_path: Path) -> None:
    file = tmp_path / "trust"
    rsa = "ssh-rsa AAAAB3NzaC1yc2E="
    for text, name in (
        (f"{key.public.line} Ann of the lab\n", "Ann of the lab"),
        (key.public.line, key.public.fingerprint),
        (f"\ufeff# the team\r\n\r\nben@lab {rsa}\r\n  ann@lab,ann@home {key.public.line}\r\n", "ann@lab,ann@home"),
        (f'"ann of the lab" {key.public.line}', "ann of the lab"),
        (f"sk-team {key.public.line}", "sk-team"),
    ):
        file.write_text(text, newline="")
        assert Signers.read(file).name_of(key.public, NAMESPACE) == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"trust cannot be read: No such file"),
        ("", r"trust names no ed25519 key"),
        ("# nobody\n", r"trust names no ed25519 key"),
        ("ann@lab\n", r"trust:1: no key"),
        ("# team\nann@lab ssh-ed25519\n", r"trust:2: no key"),
        ("ann@lab ssh-ed25519 AAAA\n", r"trust:1: no ed25519 key|trust:1: cut off"),
        ("ann@lab ssh-ed25519 !!!!\n", r"trust:1: no base64"),
        ("ssh-ed25519 AAAAC3NzaC1yc2E=\n", r"trust:1"),
        ("ann@lab forever ssh-ed25519 AAAA\n", r"trust:1: unknown option 'forever'"),
        ('ann@lab valid-after="soon" ssh-ed25519 AAAA\n', r"trust:1: no time 'soon'|trust:1: (cut|no ed)"),
        ('ann@lab valid-after="20261399" ssh-ed25519 AAAA\n', r"trust:1: "),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", r"trust is a private key: trust takes public ones"),
        ("\udcff\udcfe", r"trust:1: no key"),
    ],
)
def test_files_that_trust_nobody_are_one_line(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "trust").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=message) as caught:
        Signers.read(tmp_path / "trust")
    assert "\n" not in str(caught.value)


@given(text=st.text(max_size=200))
def test_whatever_stands_in_a_file_of_signers_is_an_error_of_one_line(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "any-signers"
    file.write_text(text, encoding="utf-8", newline="")
    with pytest.raises(ConfigError) as caught:
        Signers.read(file)
    assert len(str(caught.value).splitlines()) == 1


def test_a_device_or_a_file_without_end_is_neither_key_nor_trust(tmp_path: Path) -> None:
    def work() -> None:
        with (tmp_path / "long").open("wb") as file:
            file.truncate(1 << 42)
        for file, words in ((Path("/dev/zero"), "no regular file"), (tmp_path / "long", "more than the")):
            with pytest.raises(ConfigError, match=words):
                Signers.read(file)
            with pytest.raises(ConfigError, match=words):
                SigningKey.load(file, never)

    in_little_memory(work)
