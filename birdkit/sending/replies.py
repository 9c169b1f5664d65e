"""What Kaggle's client printed, read: it exits 0 on most failures, so that only its words tell.

For kaggle 2.2.4 and 2.2.5. What it prints on an error is often the server's message alone, without a status code.
"""
from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

# What a failed call was, by its words, in this order: what comes first holds. Of "busy", "throttled" and "refused"
# Kaggle surely did nothing; after "server" it may have done what was asked.
FAILURES = {
    "client": r"ModuleNotFoundError|command not found",
    "proxy": r"Tunnel connection failed: 4\d\d",  # its 403 is not Kaggle's
    "credentials": r"\b401\b|unauthenticated|unauthorized|Could not find kaggle|Authentication required|"
                   r"kaggle auth login",
    "busy": r"Maximum batch .*session count",
    "throttled": r"\b429\b|too many requests|rate limit",
    "refused": r"Connection refused|Failed to establish a new connection|Name or service not known|"
               r"Temporary failure in name resolution|No address associated|Failed to resolve|NameResolutionError",
    "server": r"\b5\d\d\b|server error|bad gateway|service unavailable|timed out|timeout|Connection aborted|"
              r"Connection reset|Connection broken|IncompleteRead|RemoteDisconnected|ConnectionError|SSLError|"
              r"SSLEOFError|EOF occurred|Max retries exceeded|ProxyError|Expecting value: line 1|"
              r"problem on Kaggle's side",
    "forbidden": r"\b403\b|forbidden|permission|denied|not authorized|don't have access",
    "absent": r"\b404\b|not found",
}
# What 2.2.5 adds below an error, after an empty line: advice, the same for each kind.
ADVICE = re.compile(r"\n\n(?:You don't have access|The resource was not found|You have been rate limited|"
                    r"This is a problem on Kaggle's side|If this is unexpected).*", re.DOTALL)
STATES = {"complete": "complete", "error": "failed", "cancel_requested": "failed", "cancel_acknowledged": "failed",
          "queued": "waiting", "running": "waiting", "new_script": "waiting"}


class ReplyError(ValueError):
    """Kaggle refused something, or its answer is not one that is known; the message holds the answer."""


@dataclass(frozen=True)
class Submission:
    """One line of `kaggle competitions submissions`; status is one of "pending", "complete", "error"."""

    ref: str
    description: str
    status: str
    public_score: str


def failure(text: str) -> str:
    """What kind of failure a text speaks of: a name of `FAILURES`, "other" where it is none of them.

    >>> failure("404 Client Error: Not Found for url: https://api.kaggle.com/v1/")
    'absent'
    >>> failure("Kernel push error: Maximum batch GPU session count of 2 reached.")
    'busy'
    """
    return next((kind for kind, words in FAILURES.items() if re.search(words, text, re.IGNORECASE)), "other")


def reason(text: str) -> str:
    """The line that says what went wrong: the last one, but for advice that the client adds.

    >>> reason("403 - Permission was denied\\n\\nYou don't have access to this resource.\\nIf this is ...")
    '403 - Permission was denied'
    """
    return ADVICE.sub("", text).strip().rpartition("\n")[2]


def dataset_status(text: str) -> tuple[str, int]:
    """Status and version of `kaggle datasets status --format json`.

    >>> dataset_status('{"status": "ready", "current_version_number": 3}')
    ('ready', 3)
    """
    found = _json(text, "{")
    return str(found.get("status", "")).lower(), int(found.get("current_version_number") or 0)


def check_upload(text: str) -> None:
    """ReplyError unless all files went up and the dataset, or its version, is being made."""
    for line in text.splitlines():
        retried = line.startswith("Request failed")  # by the client itself
        if not retried and re.search(r"\berror\b|unsuccessful|not valid|Skipping", line, re.IGNORECASE):
            raise ReplyError(line.strip())
    if "is being created" not in text:
        raise ReplyError(f"no word of a new version in: {text.strip()[-300:] or 'an empty answer'}")


def check_files(text: str, manifest: Mapping[str, Any], own_bytes: int) -> None:
    """ReplyError unless `kaggle datasets files --format json` lists every file of a manifest with its size.

    By the last part of their names: the server unpacks folders that were sent as archives.

    own_bytes  the size of the manifest's own file
    """
    listed = sorted((PurePosixPath(file["name"]).name, int(file["size"] or 0)) for file in _json(text, "["))
    missing = [("MANIFEST.json", own_bytes)]
    missing += [(PurePosixPath(name).name, int(file["bytes"])) for name, file in manifest["files"].items()]
    for file in listed:
        if file in missing:
            missing.remove(file)
    if missing:
        raise ReplyError("the new version lacks " + ", ".join(f"{name} ({size} bytes)" for name, size in missing))


def pushed_version(text: str) -> int:
    """The version number of a push; ReplyError where it was refused, or took some inputs only, or has no number.

    >>> pushed_version("Kernel version 7 successfully pushed.  Please check progress at https://www.kaggle.com/x")
    7
    """
    for line in text.splitlines():
        if re.search(r"push error|not valid", line, re.IGNORECASE):
            raise ReplyError(line.strip())
    found = re.search(r"Kernel version (\d+) successfully pushed", text)
    if not found:
        raise ReplyError(f"no version number in: {text.strip()[-300:] or 'an empty answer'}")
    return int(found.group(1))


def kernel_state(text: str) -> tuple[str, str]:
    """("complete", "failed" or "waiting", what the server calls it and why); ReplyError where it is neither.

    >>> kernel_state('ann/birdkit-01 has status "KernelWorkerStatus.RUNNING"')
    ('waiting', 'running')
    >>> kernel_state('ann/birdkit-01 has status "error"\\nFailure message: "out of memory"')
    ('failed', 'error: out of memory')
    """
    found = re.search(r'has status "(?:KernelWorkerStatus\.)?(\w+)"', text)
    if not found or found.group(1).lower() not in STATES:
        raise ReplyError(f"no status in: {text.strip()[-300:] or 'an empty answer'}")
    name, why = found.group(1).lower(), re.search(r'Failure message: "(.*)"', text, re.DOTALL)
    return STATES[name], f"{name}: {' '.join(why.group(1).split())}" if why else name


def find_submission(text: str, key: str) -> Submission | None:
    """The submission whose description holds the key, in `kaggle competitions submissions --format json`."""
    if "No submissions found" in text:
        return None
    for found in _json(text, "["):
        if key in str(found.get("description")):
            return Submission(str(found.get("ref")), str(found["description"]),
                              str(found.get("status")).rpartition(".")[2].lower(), str(found.get("publicScore") or ""))
    return None


def submission_limits(text: str) -> tuple[int, int]:
    """How many submissions today still allows, and has seen, of `kaggle competitions submission-limits`.

    >>> submission_limits("Submissions today: 1\\nLifetime submissions: 9\\nRemaining today: 4")
    (4, 1)
    """
    left, made = re.search(r"Remaining today: (\d+)", text), re.search(r"Submissions today: (\d+)", text)
    if not left or not made:
        raise ReplyError(f"no limit in: {text.strip()[-300:] or 'an empty answer'}")
    return int(left.group(1)), int(made.group(1))


def check_accepted(text: str) -> None:
    """ReplyError unless `kaggle competitions submit` says that the submission was taken.

    >>> check_accepted("4 submissions remaining today.\\nSuccessfully submitted to BirdCLEF+ 2026")
    """
    if not re.search(r"successfully submitted", text, re.IGNORECASE):
        raise ReplyError(f"no word of a submission in: {text.strip()[-300:] or 'an empty answer'}")


def _json(text: str, opening: str) -> Any:
    """The JSON in a text that may hold warnings around it; ReplyError where there is none."""
    for line_start in (match.start() for match in re.finditer(rf"^{re.escape(opening)}", text, re.MULTILINE)):
        try:
            return json.JSONDecoder().raw_decode(text[line_start:])[0]
        except json.JSONDecodeError:
            continue
    raise ReplyError(f"no JSON in: {text.strip()[-300:] or 'an empty answer'}")
