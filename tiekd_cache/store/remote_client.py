"""obstore's client for a URL: time limits, and credentials from where they usually are."""

from __future__ import annotations

import configparser
import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tiekd_cache.errors import ConfigError
from tiekd_cache.foreign import shown

_SERVER_URL = re.compile(r"https?://[!-~]+", re.IGNORECASE)
_ENDPOINTS = ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
_IN_HEADERS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION")
_MISSING = {
    "Missing SecretAccessKey": "AWS_ACCESS_KEY_ID is set without AWS_SECRET_ACCESS_KEY.",
    "Missing AccessKeyId": "AWS_SECRET_ACCESS_KEY is set without AWS_ACCESS_KEY_ID.",
    "ccount": "It does not know the account: set AZURE_STORAGE_ACCOUNT_NAME.",
}
"""What obstore says of settings that it cannot go on with, and what that means."""
_AWS_SOURCES = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")


def import_obstore(url: str) -> None:
    """Raise ConfigError where obstore is not installed: folders and zip files do without it."""
    try:
        import obstore  # noqa: F401
    except ImportError:
        raise ConfigError(f"{url}: stores by URL need obstore: pip install 'tiekd-cache[remote]'") from None


def make_client(place: str, url: str, seconds: float, silence: float) -> Any:
    """A client of obstore for the folder at a URL. Nothing is asked for yet.

    Args:
        place: the URL, with credentials where it has some.
        url: the same without, for messages.
        seconds: that a request may take.
        silence: seconds without a byte after which it has failed.
    Raises:
        ConfigError: obstore refuses the settings, or would panic at the first request with them.
    """
    from obstore import store
    from obstore.exceptions import BaseError

    scheme = place.partition("://")[0]
    plain = scheme == "http" or (scheme == "s3" and aws_endpoint().startswith("http://"))
    options: dict[str, Any] = {
        "timeout": timedelta(seconds=seconds),
        "read_timeout": timedelta(seconds=silence),
        "connect_timeout": timedelta(seconds=min(5.0, silence)),
        **({"allow_http": True} if plain else {}),
    }
    # Requests are made again by whoever makes them: obstore does so for answers but not for bodies that break off.
    limits: dict[str, Any] = {
        "client_options": options,
        "retry_config": {"max_retries": 0, "retry_timeout": timedelta(seconds=silence)},
    }
    try:
        if scheme == "s3":
            profile = aws_profile()
            _check_characters(profile)
            return store.S3Store.from_url(place, **limits, **profile)
        kinds: dict[str, Any] = {"gs": store.GCSStore, "az": store.AzureStore}
        return kinds.get(scheme, store.HTTPStore).from_url(place, **limits)
    except (BaseError, ValueError, OSError) as error:
        missing = next((f" {hint}" for name, hint in _MISSING.items() if name in str(error)), "")
        raise ConfigError(
            f"{url} cannot be opened with the settings in the environment ({type(error).__name__}).{missing} Check"
            " them, and the URL."
        ) from None


def aws_endpoint() -> str:
    """SCHEME://HOST:PORT of the server that the environment names instead of Amazon's; empty where it names none.

    Raises:
        ConfigError: it is no such URL.
    """
    found = ""
    for name in _ENDPOINTS:
        value = os.environ.get(name)
        if value is None:
            continue
        try:
            parts = urlsplit(value)
            host, port = parts.hostname, "" if parts.port is None else f":{parts.port}"
        except ValueError:
            host = port = None
        if not host or not _SERVER_URL.fullmatch(value):
            without_password = value.rpartition("@")[2]
            raise ConfigError(
                f"{name} is {shown(without_password)!r}, which is no URL of a server: write http://HOST:PORT or"
                " https://HOST:PORT, or unset it for Amazon's own."
            )
        found = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}"
    return found


def _check_characters(profile: dict[str, Any]) -> None:
    """Refuse what no header of a request can hold."""
    settings = {name: os.environ.get(name, "") for name in _IN_HEADERS}
    settings |= {f"{name} of the AWS profile": value for name, value in profile.items()}
    for name, value in settings.items():
        if not (value.isascii() and value.isprintable()):
            raise ConfigError(f"{name} holds a line break or another character that no such value has: set it anew.")


def aws_profile() -> dict[str, Any]:
    """Keys and region out of AWS's own files; nothing where the environment holds credentials, which have precedence.

    The profile is that of $AWS_PROFILE, or `default`. What needs a login (SSO, roles) is not done here.
    """
    if any(os.environ.get(name) for name in (*_AWS_SOURCES, "AWS_SKIP_SIGNATURE")):
        return {}
    profile = os.environ.get("AWS_PROFILE", "default")
    credentials = _section("AWS_SHARED_CREDENTIALS_FILE", "credentials", profile)
    config = _section("AWS_CONFIG_FILE", "config", profile if profile == "default" else f"profile {profile}")
    names = {"aws_access_key_id": "access_key_id", "aws_secret_access_key": "secret_access_key"}
    names |= {"aws_session_token": "session_token"}
    found = {**config, **credentials}
    settings = {ours: found[theirs] for theirs, ours in names.items() if theirs in found}
    if "region" in config and not (os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")):
        settings["region"] = config["region"]
    return settings


def _section(variable: str, name: str, section: str) -> dict[str, str]:
    file = Path(os.environ.get(variable) or Path.home() / ".aws" / name)
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(file, "utf-8")
        return dict(parser[section]) if parser.has_section(section) else {}
    except (configparser.Error, OSError, ValueError):
        return {}
