"""Who is trusted: an OpenSSH `allowed_signers` file, as `ssh-keygen -Y verify` and git read it, or a public key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tiekd_cache.errors import ConfigError
from tiekd_cache.foreign import read_file
from tiekd_cache.openssh.keys import KEY_TYPE, PublicKey

_WORD = re.compile(r'(?:"[^"]*"|[^\s"])+')
_OPTION = re.compile(r'([a-z-]+)(?:="([^"]*)")?(?:,(?=.)|$)', re.IGNORECASE)
_KEY_TYPE = re.compile(
    r"(?:ssh-(?:ed25519|rsa|dss)|ecdsa-sha2-nistp\d+|sk-(?:ssh-ed25519|ecdsa-sha2-nistp256))"
    r"(?:-cert-v01)?(?:@openssh\.com)?"
)
_TIME = re.compile(r"(\d{8})(\d{4}(?:\d\d)?)?(Z?)")


@dataclass(frozen=True)
class _Line:
    """A key that is trusted: by its name, for some purposes, at some times (None: no limit)."""

    name: str
    key: PublicKey
    namespaces: str | None = None
    after: datetime | None = None
    before: datetime | None = None

    def holds(self, namespace: str, now: datetime) -> bool:
        in_time = (self.after is None or now >= self.after) and (self.before is None or now <= self.before)
        return in_time and (self.namespaces is None or _matches(namespace, self.namespaces))


@dataclass(frozen=True)
class Signers:
    """The ed25519 keys that a file trusts.

    Attributes:
        source: the file.
    """

    source: Path
    _lines: tuple[_Line, ...]

    @classmethod
    def read(cls, file: str | Path) -> Signers:
        """The signers in an `allowed_signers` file, or the one of a public key file (`id_ed25519.pub`).

        Of an `allowed_signers` file the options `namespaces`, `valid-after` and `valid-before` are obeyed; keys of
        other kinds, and those of certificate authorities, are passed over.

        Raises:
            ConfigError: it cannot be read, has a line that is none of those, or no ed25519 key.
        """
        path = Path(file).expanduser()
        try:
            text = read_file(path).decode("utf-8-sig")
        except OSError as error:
            raise ConfigError(
                f"The file of trusted signers {path} cannot be read: {error.strerror or error}. Check the path."
            ) from None
        except UnicodeDecodeError:
            text = "\0"
        if "PRIVATE KEY-----" in text:
            raise ConfigError(f"{path} is a private key: trust takes public ones, the file whose name ends in .pub.")
        lines = []
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            try:
                lines += list(_read_line(line))
            except ValueError as error:
                raise ConfigError(
                    f"{path}:{number}: {error}. A line of an allowed_signers file is NAME {KEY_TYPE} AAAA…, one of a"
                    f" public key file {KEY_TYPE} AAAA… NAME."
                ) from None
        if not lines:
            raise ConfigError(f"{path} names no ed25519 key, and no other kind is trusted: add a line for each signer.")
        return cls(path, tuple(lines))

    def name_of(self, key: PublicKey, namespace: str, now: datetime | None = None) -> str | None:
        """The name of the signer with a key; None where the file does not trust it for the namespace, now."""
        now = datetime.now(UTC) if now is None else now
        return next((line.name for line in self._lines if line.key == key and line.holds(namespace, now)), None)


def _read_line(line: str) -> Iterator[_Line]:
    """The key of a line, if it is one that can sign; raises ValueError where the line is none of either form."""
    words = _WORD.findall(line)
    if words and _KEY_TYPE.fullmatch(words[0]):
        if words[0] == KEY_TYPE and len(words) > 1:
            key = PublicKey.from_base64(words[1])
            yield _Line(" ".join(words[2:]) or key.fingerprint, key)
        return
    options = words[1] if len(words) > 2 and not _KEY_TYPE.fullmatch(words[1]) else None
    kind, *rest = words[1 if options is None else 2 :] or [""]
    if not _KEY_TYPE.fullmatch(kind) or not rest:
        raise ValueError("no key")
    limits = _read_options(options or "")
    if kind == KEY_TYPE and "cert-authority" not in limits:
        yield _Line(
            words[0].strip('"'),
            PublicKey.from_base64(rest[0]),
            limits.get("namespaces"),
            _time(limits.get("valid-after")),
            _time(limits.get("valid-before")),
        )


def _read_options(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    place = 0
    while place < len(text):
        match = _OPTION.match(text, place)
        name = "" if match is None else match[1].lower()
        valued = match is not None and match[2] and name in ("namespaces", "valid-after", "valid-before")
        if match is None or not (valued or name == "cert-authority"):
            raise ValueError(f"unknown option {text[place:]!r}")
        if valued and name in found:
            raise ValueError(f"a second option {text[place:]!r}")
        found[name] = match[2] or ""
        place = match.end()
    return found


def _time(text: str | None) -> datetime | None:
    """The time of `YYYYMMDD[HHMM[SS]][Z]`: in UTC with the Z, else in local time, as ssh-keygen has it."""
    if text is None:
        return None
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"no time {text!r}")
    read = datetime.strptime(f"{match[1]}{(match[2] or '0000'):0<6}", "%Y%m%d%H%M%S")
    return read.replace(tzinfo=UTC) if match[3] else read.astimezone()


def _matches(text: str, patterns: str) -> bool:
    """Whether a comma-separated list of OpenSSH's patterns (`*`, `?`, `!` in front) takes a text."""
    taken = False
    for pattern in patterns.split(","):
        form = "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern.removeprefix("!"))
        if re.fullmatch(form, text, re.DOTALL):
            if pattern.startswith("!"):
                return False
            taken = True
    return taken
