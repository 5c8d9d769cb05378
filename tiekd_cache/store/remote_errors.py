"""What obstore's errors mean: whether to ask again, and what to tell the user, in words of our own."""

from __future__ import annotations

import re


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


def is_silence(error: Exception) -> bool:
    """Whether no whole answer came in time."""
    text = str(error)
    return isinstance(error, TimeoutError) or "TimedOut" in text or "kind: Timeout" in text


def may_pass(error: Exception) -> bool:
    """Whether the same request may succeed a moment later."""
    from obstore import exceptions

    if isinstance(error, ValueError | exceptions.NotSupportedError | exceptions.PermissionDeniedError):
        return False
    if isinstance(error, exceptions.UnauthenticatedError | exceptions.InvalidPathError):
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
    if "kind: Connect," in text:
        return "no connection. Check the host's name, the network, and whether the server runs"
    return "the connection broke off. Check the network and the server, then try again"


_ACCESS = {
    "s3": (
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; AWS_SKIP_SIGNATURE=true for a public bucket;"
        " AWS_REGION and AWS_ENDPOINT_URL where it is not Amazon's usual one"
    ),
    "gs": "Set GOOGLE_APPLICATION_CREDENTIALS; GOOGLE_SKIP_SIGNATURE=true for a public bucket",
    "az": "Set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY; AZURE_SKIP_SIGNATURE=true for a public one",
}
"""Where credentials are looked for; what a user can do about a refusal."""
