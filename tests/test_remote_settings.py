"""Settings of the environment that no request can be made with are one line, before anything is asked for."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from tiekd_cache.cli import main

pytest.importorskip("obstore")

SECRET = "topsecret"


def error_of(url: str, capfd: pytest.CaptureFixture[str]) -> str:
    """The one line that `info` of a store ends with; nothing else is written, not by obstore either."""
    result = CliRunner().invoke(main, ["info", url])
    assert result.exit_code == 1, result.exception
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert SECRET not in result.stderr
    assert capfd.readouterr().err == ""
    return result.stderr


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials, and none of this machine's settings."""
    for name in ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_ENDPOINT_URL", "127.0.0.1:5599"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:notaport"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:99999"),
        ("AWS_ENDPOINT_URL", "http://[::1"),
        ("AWS_ENDPOINT_URL", "http://a b"),
        ("AWS_ENDPOINT_URL", ""),
        ("AWS_ENDPOINT_URL_S3", f"user:{SECRET}@127.0.0.1:5599"),
        ("AWS_ACCESS_KEY_ID", "key\n"),
        ("AWS_SESSION_TOKEN", f"{SECRET}\n"),
    ],
)
def test_settings_that_obstore_would_panic_at(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert name in error_of("s3://team/a.zarr", capfd)


def test_a_panic_is_an_error_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_BASE_URL", "no address")
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    result = CliRunner().invoke(main, ["info", "gs://team/a.zarr"])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "gs://team/a.zarr: obstore cannot make a request" in result.stderr
