"""Whether the Hugging Face hub answers: asked before its own client is, which tries again for half a minute."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request

import huggingface_hub.constants

PROBE_SECONDS = 5.0
"""How long to wait for an answer."""


def why_unreachable() -> str | None:
    """Why the hub cannot be reached, in words, within seconds; None where it answers, with whatever answer."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    endpoint = huggingface_hub.constants.ENDPOINT
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=PROBE_SECONDS):
            return None
    except urllib.error.HTTPError as error:
        error.close()
        return None
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLError):  # it answers; the hub's client brings certificates of its own
            return None
        return f"no answer from {endpoint}: {reason}"
