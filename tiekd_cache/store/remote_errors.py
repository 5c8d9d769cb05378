"""What obstore's errors mean: whether to ask again, and what to tell the user, in words of our own."""

from __future__ import annotations

import re

from tiekd_cache.store.objects import RefusedError, RemoteError
from tiekd_cache.store.remote_client import aws_endpoint


class Silence(RemoteError):
    """No whole answer in time."""


def error_for(
    error: Exception, where: str, done: str, scheme: str, attempts: int = 1, seconds: float = 0.0
) -> RemoteError:
    """What to raise for obstore's error: where it is, what cannot be done there, why, and how often it was tried."""
    tried = f" ({attempts} requests in {seconds:.0f} s)" if attempts > 1 else ""
    kind = RefusedError if is_refusal(error) else Silence if is_silence(error) else RemoteError
    return kind(f"{where} cannot be {done}: {reason_of(error, scheme)}{tried}")


def slow_line(where: str, size: int, seconds: float, slowest: float) -> RemoteError:
    """What to raise where so many bytes were not taken in time by a server that answers otherwise."""
    return RemoteError(
        f"{where} cannot be written: {size / 1e6:.0f} MB were not taken within {seconds:.0f} s, though the server"
        f" answers small requests. Each shard under way needs {slowest / 1e6} MB/s: push with --jobs 1, over a faster"
        " line, or make the store with a smaller --shard-frames"
    )


def _status(error: Exception) -> int | None:
    found = re.search(r"status code: (\d{3})", str(error))
    return int(found[1]) if found else None


def is_panic(error: BaseException) -> bool:
    """Whether obstore's own code has failed, which it does at settings that it takes for checked."""
    return type(error).__name__ == "PanicException"  # pyo3 makes the class, and no module has it


def is_refusal(error: Exception) -> bool:
    """Whether an answer was that we have no permission."""
    from obstore import exceptions

    refused = isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError)
    return refused or _status(error) in (401, 403)


def is_missing_bucket(error: Exception) -> bool:
    """Whether a listing says that there is no such bucket."""
    return _status(error) == 404


def is_silence(error: Exception) -> bool:
    """Whether no whole answer came in time."""
    text = str(error)
    return isinstance(error, TimeoutError) or "TimedOut" in text or "kind: Timeout" in text


def may_pass(error: Exception) -> bool:
    """Whether the same request may succeed a moment later."""
    from obstore import exceptions

    if isinstance(error, ValueError | exceptions.NotSupportedError | exceptions.PermissionDeniedError):
        return False
    if isinstance(error, exceptions.UnauthenticatedError | exceptions.InvalidPathError) or _tls_problem(error):
        return False
    status = _status(error)
    return status is None or status >= 500 or status in (408, 429)


def reason_of(error: Exception, scheme: str) -> str:
    """What went wrong and what to do, in words of our own: those of the server may hold credentials."""
    from obstore import exceptions

    text, status = str(error), _status(error)
    if isinstance(error, exceptions.NotSupportedError):
        return (
            "the server ignores Range requests, so that one frame cannot be read alone. Serve the folder with nginx or"
            " another server that knows Range, or pull the store to a folder first"
        )
    if is_refusal(error):
        said = f"access is refused ({status or 'no permission'}). "
        return said + _ACCESS.get(scheme, "Ask whoever runs the server for access")
    if status == 404 and scheme not in ("http", "https"):
        return (
            "there is no such bucket. Check its name, or make it; AWS_ENDPOINT_URL names a server other than Amazon's"
        )
    if status is not None:
        return f"the server answers {status}. Try again later, or ask whoever runs it"
    if "redirect without LOCATION" in text:
        return "the bucket is in another region. Set AWS_REGION"
    if "169.254.169.254" in text or "metadata.google" in text:
        return f"no credentials are found. {_ACCESS.get(scheme, '')}"
    if is_silence(error):
        return "no whole answer in time. Check the network and the server, then try again"
    at = _server(scheme)
    if problem := _tls_problem(error):
        return f"no connection{at}: {problem}"
    if "kind: Connect," in text:
        return f"no connection{at}. Check the host's name, the network, and whether the server runs"
    return "the connection broke off. Check the network and the server, then try again"


def _tls_problem(error: Exception) -> str | None:
    """What is wrong with a server's TLS and what to do; None where it is not that."""
    text = str(error)
    if "InvalidCertificate(" in text:
        return (
            "its certificate is not valid for that name, or signed by nobody whom this machine knows. Where it is your"
            " own server's, SSL_CERT_FILE names the file with the certificate of who signed it"
        )
    if "InvalidContentType" in text:
        return "the server does not speak https. Name it by http://"
    return None


def _server(scheme: str) -> str:
    """Which server the requests go to, where the store's URL does not say it."""
    if scheme != "s3":
        return ""
    endpoint = aws_endpoint()
    return f" to {endpoint}, the AWS_ENDPOINT_URL" if endpoint else " to Amazon's S3 (AWS_ENDPOINT_URL is not set)"


_ACCESS = {
    "s3": (
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; AWS_SKIP_SIGNATURE=true for a public bucket;"
        " AWS_REGION and AWS_ENDPOINT_URL where it is not Amazon's usual one"
    ),
    "gs": "Set GOOGLE_APPLICATION_CREDENTIALS; GOOGLE_SKIP_SIGNATURE=true for a public bucket",
    "az": "Set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY; AZURE_SKIP_SIGNATURE=true for a public one",
}
"""Where credentials are looked for; what a user can do about a refusal."""
