"""Settings and servers that no request can be made with are one line that names them, and never credentials."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner
from remote_helpers import failing_bucket
from servers import free_port

from tiekd_cache.cli import main
from tiekd_cache.store import remote
from tiekd_cache.store.objects import MissingObject, RemoteError, open_objects

pytest.importorskip("obstore")

SECRET = "topsecret"


def error_of(url: str, capfd: pytest.CaptureFixture[str], *command: str) -> str:
    """The one line that `info` of a store ends with; nothing else is written, not by obstore either."""
    result = CliRunner().invoke(main, command or ["info", url])
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


def test_a_key_without_its_secret(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "without AWS_SECRET_ACCESS_KEY" in error_of("s3://team/a.zarr", capfd)


def test_a_url_without_a_bucket(capfd: pytest.CaptureFixture[str]) -> None:
    assert error_of("s3://", capfd).startswith("Error: s3://: ")


def test_a_server_that_does_not_run_is_named(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(remote, "LAST_START_S", 0.0)
    port = free_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{SECRET}@127.0.0.1:{port}")
    said = error_of("s3://team/a.zarr", capfd)
    assert f"no connection to http://127.0.0.1:{port}" in said
    assert "AWS_ENDPOINT_URL" in said


def test_a_bucket_that_is_not_there_is_told_from_a_store_that_is_not(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with failing_bucket(tmp_path) as server:
        for command in (["info"], ["verify"], ["pull"]):
            arguments = [*command, "s3://nobodys/a.zarr", *([str(tmp_path / "b.zarr")] if command == ["pull"] else [])]
            said = error_of("", capfd, *arguments)
            assert "s3://nobodys/a.zarr" in said
            assert "there is no such bucket" in said
        assert "no store at s3://bucket/a.zarr" in error_of("s3://bucket/a.zarr", capfd)
        server.requests.clear()
        objects = open_objects("s3://bucket/a.zarr")
        for _ in range(2):
            with pytest.raises(MissingObject):
                objects.get("zarr.json")
        assert [method for method, _, _ in server.requests] == ["GET", "LIST", "GET"]


@pytest.fixture
def own_certificate(tmp_path: Path) -> Iterator[str]:
    """URL of an https server whose certificate nobody has signed."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    making = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out certificate -subj /CN=localhost"
    subprocess.run(making.split(), cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"https://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_what_is_wrong_with_https_is_said_at_once(
    own_certificate: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", own_certificate)
    with pytest.raises(RemoteError, match=f"no connection to {own_certificate}.*certificate") as caught:
        open_objects("s3://team/a.zarr").get("zarr.json")
    assert "requests" not in str(caught.value)  # one is enough
    with failing_bucket(tmp_path) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url.replace("http:", "https:"))
        with pytest.raises(RemoteError, match="does not speak https") as caught:
            open_objects("s3://bucket/a.zarr").get("zarr.json")
    assert "requests" not in str(caught.value)
