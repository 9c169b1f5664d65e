"""A Kaggle of one's own on loopback: what the real client says to it is kept, what it answers can be scripted.

It speaks the protocol of the clients of 2026 (JSON by POST to /api/v1/<service>/<method>, bytes by PUT to where the
server says) and plays along: datasets get versions, a push runs, a submission gets a score. It proves the conversation
with the client, not Kaggle's rules.
"""
from __future__ import annotations

import io
import json
import re
import tempfile
import threading
import zipfile
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from birdkit.kaggle import manifest

SAMPLE = b"row_id,aldfly,barswa\nsoundscape_1_5,0.5,0.5\nsoundscape_1_10,0.5,0.5\n"
SUBMISSION = b"row_id,aldfly,barswa\nsoundscape_1_5,0.1,0.9\nsoundscape_1_10,0.2,0.8\n"
JSON = "application/json"


@dataclass(frozen=True)
class Reply:
    """An answer. `late`: given although the server did what it was asked; `hold`: not before that is set."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    late: bool = False
    hold: threading.Event | None = None


def error(code: int, message: str, **headers: str) -> Reply:
    """A refusal in Kaggle's form."""
    return Reply(code, {"code": code, "message": message}, headers)


@dataclass
class Dataset:
    """views: (status, version) that the next looks show; the last one stays."""

    version: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    views: deque[tuple[str, int]] = field(default_factory=deque)


@dataclass
class Kernel:
    """state: of its latest session; "" for the server's `states`."""

    version: int = 0
    request: dict[str, Any] = field(default_factory=dict)
    state: str = ""


class FakeKaggle:
    """The server's state, for a test to look at and to change.

    script         answers that come before the usual ones, by method; each is given once
    stale_looks    for how many looks a new dataset version still shows as the old one
    states         what a pushed notebook's status is, look by look; the last one stays
    outputs        files of a finished notebook beside its manifest
    loads_wheel    a package_sha256 that a notebook notes instead of the attached wheel's
    pending_looks  for how many looks a submission has no score
    late_looks     for how many looks a submission is not listed
    tokens         the account of an access token; others are inactive
    end            how its scoring ends
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.headers: list[str] = []
        self.script: dict[str, deque[Reply]] = defaultdict(deque)
        self.datasets: dict[str, Dataset] = {}
        self.kernels: dict[str, Kernel] = {}
        self.blobs: dict[str, tuple[str, bytes]] = {}
        self.submissions: list[dict[str, Any]] = []
        self.stale_looks = 0
        self.states: deque[str] = deque(["COMPLETE"])
        self.failure = ""
        self.outputs: dict[str, bytes] = {"submission.csv": SUBMISSION}
        self.loads_wheel = ""
        self.log = "first line\nlast line\n"
        self.left = 5
        self.pending_looks = 1
        self.late_looks = 0
        self.tokens: dict[str, str] = {}
        self.end = "COMPLETE"
        self.sample = SAMPLE
        self.url = ""

    def answer(self, method: str, *replies: Reply) -> None:
        """Script the next answers of a method."""
        self.script[method].extend(replies)

    def count(self, method: str) -> int:
        """How often a method was called."""
        return sum(name == method for name, _ in self.calls)

    def asked(self, method: str) -> dict[str, Any]:
        """The last request of a method."""
        return next(body for name, body in reversed(self.calls) if name == method)

    def handle(self, method: str, body: dict[str, Any]) -> Reply:
        """The answer to one call."""
        self.calls.append((method, body))
        scripted = self.script[method].popleft() if self.script[method] else None
        if scripted is not None and not scripted.late:
            return scripted
        usual: Reply = getattr(self, re.sub("([A-Z])", r"_\1", method).lower())(body)
        return scripted or usual

    def file(self, kind: str, name: str) -> bytes:
        """What is downloaded, from the address that an answer gave."""
        if kind == "dataset":
            dataset, _, name = name.rpartition("/")
            return self.datasets[dataset].files[name]
        return self.sample if kind == "sample" else self.outputs[name]

    def _introspect_token(self, body: dict[str, Any]) -> Reply:
        account = self.tokens.get(body["token"], "")
        return Reply(body={"active": bool(account), "username": account})

    def _get_dataset_status(self, body: dict[str, Any]) -> Reply:
        found = self._dataset(body)
        if found is None:
            return error(404, "404 - Not Found - Dataset not found")
        if len(found.views) > 1:
            found.views.popleft()
        return Reply(body={"status": found.views[0][0]})

    def _get_dataset(self, body: dict[str, Any]) -> Reply:
        found = self._dataset(body)
        if found is None:
            return error(404, "404 - Not Found")
        return Reply(body={"currentVersionNumber": found.views[0][1]})

    def _get_dataset_metadata(self, body: dict[str, Any]) -> Reply:
        return Reply(body={"info": {"licenses": [{"name": "apache-2.0"}]}})

    def _start_blob_upload(self, body: dict[str, Any]) -> Reply:
        token = f"blob{len(self.blobs)}"
        self.blobs[token] = (body["name"], b"")
        return Reply(body={"token": token, "createUrl": f"{self.url}/blob/{token}"})

    def _create_dataset(self, body: dict[str, Any]) -> Reply:
        return self._new_version(f"{body['ownerSlug']}/{body['slug']}", body["files"])

    def _create_dataset_version(self, body: dict[str, Any]) -> Reply:
        return self._new_version(f"{body['ownerSlug']}/{body['datasetSlug']}", body["body"]["files"])

    def _list_dataset_files(self, body: dict[str, Any]) -> Reply:
        found = self._dataset(body)
        assert found is not None
        files = [{"name": name, "totalBytes": len(content), "creationDate": "2026-11-20T10:00:00Z"}
                 for name, content in found.files.items()]
        return Reply(body={"datasetFiles": files})

    def _download_dataset(self, body: dict[str, Any]) -> Reply:
        name = f"{body['ownerSlug']}/{body['datasetSlug']}/{body['fileName']}"
        return Reply(302, headers={"Location": f"{self.url}/dataset/{name}"})

    def _save_kernel(self, body: dict[str, Any]) -> Reply:
        kernel = self.kernels.setdefault(body["slug"], Kernel())
        kernel.version, kernel.request, kernel.state = kernel.version + 1, body, ""
        invalid = [source for source in body.get("datasetDataSources", []) if source not in self.datasets]
        others = [source for source in body.get("kernelDataSources", []) if source not in self.kernels]
        return Reply(body={"ref": body["slug"], "url": "https://www.kaggle.com/code/x", "error": "",
                           "versionNumber": kernel.version, "invalidDatasetSources": invalid,
                           "invalidKernelSources": others})

    def _get_kernel(self, body: dict[str, Any]) -> Reply:
        kernel = self.kernels.get(f"{body['userName']}/{body['kernelSlug']}")
        if kernel is None:
            return error(404, "404 - Not Found")
        return Reply(body={"metadata": {"currentVersionNumber": kernel.version},
                           "blob": {"source": kernel.request.get("text", "")}})

    def _get_kernel_session_status(self, body: dict[str, Any]) -> Reply:
        kernel = self.kernels.get(f"{body['userName']}/{body['kernelSlug']}")
        if kernel is None:
            return error(404, "404 - Not Found")
        state = kernel.state or (self.states.popleft() if len(self.states) > 1 else self.states[0])
        return Reply(body={"status": state, "failureMessage": self.failure if state == "ERROR" else ""})

    def _list_kernel_session_output(self, body: dict[str, Any]) -> Reply:
        slug = f"{body['userName']}/{body['kernelSlug']}"
        self._run(self.kernels[slug], body["kernelSlug"])
        files = [{"fileName": name, "url": f"{self.url}/file/{name}"} for name in self.outputs]
        log = json.dumps([{"stream_name": "stdout", "time": 1.0, "data": self.log}])
        return Reply(body={"files": files, "log": log})

    def _get_submission_limits(self, body: dict[str, Any]) -> Reply:
        return Reply(body={"numToday": 5 - self.left, "numTotal": 7, "numAllowedNow": self.left})

    def _download_data_file(self, body: dict[str, Any]) -> Reply:
        return Reply(302, headers={"Location": f"{self.url}/sample/{body['fileName']}"})

    def _create_code_submission(self, body: dict[str, Any]) -> Reply:
        self.left -= 1
        self.submissions.insert(0, {
            "ref": 1000 + len(self.submissions), "fileName": body["fileName"], "date": "2026-11-20T10:00:00Z",
            "description": body["submissionDescription"], "looks": self.pending_looks + self.late_looks})
        return Reply(body={"message": "Successfully submitted to BirdCLEF", "ref": 1000 + len(self.submissions)})

    def _list_submissions(self, body: dict[str, Any]) -> Reply:
        shown = []
        for entry in self.submissions:
            done, entry["looks"] = entry["looks"] <= 0, entry["looks"] - 1
            if entry["looks"] >= self.pending_looks:
                continue
            shown.append({**{key: entry[key] for key in ("ref", "fileName", "date", "description")},
                          "status": self.end if done else "PENDING",
                          "publicScore": "0.912" if done else ""})
        return Reply(body={"submissions": shown})

    def _dataset(self, body: dict[str, Any]) -> Dataset | None:
        return self.datasets.get(f"{body['ownerSlug']}/{body['datasetSlug']}")

    def _new_version(self, name: str, files: list[dict[str, str]]) -> Reply:
        found = self.datasets.setdefault(name, Dataset())
        found.version += 1
        found.files = {}
        for uploaded in files:
            found.files.update(_unpacked(*self.blobs[uploaded["token"]]))
        before = [("READY", found.version - 1)] * self.stale_looks
        found.views = deque([("READY", found.version - 1), *before, ("READY", found.version)])
        if before:
            found.views.insert(len(before) + 1, ("BLOBS_RECEIVED", found.version))
        return Reply(body={"ref": name, "url": f"https://www.kaggle.com/datasets/{name}", "status": "Ok", "error": ""})

    def _run(self, kernel: Kernel, slug: str) -> None:
        """Leave behind what a notebook would: its manifest says what it loaded from the attached wheel."""
        notebook = next(name for name in manifest.NOTEBOOKS if name.replace("_", "-") in slug)
        loaded = self.loads_wheel or self._package_of(kernel.request["datasetDataSources"])
        self.outputs["run_manifest.json"] = json.dumps({notebook: {"package_sha256": loaded}}).encode()

    def _package_of(self, sources: list[str]) -> str:
        for source in sources:
            for name, content in self.datasets[source].files.items():
                if name.startswith("birdkit-") and name.endswith(".whl"):
                    with tempfile.TemporaryDirectory() as folder:
                        wheel = Path(folder) / name
                        wheel.write_bytes(content)
                        return manifest.package_sha256(wheel)
        raise AssertionError(f"no wheel of birdkit in {sources}")


def _unpacked(name: str, content: bytes) -> dict[str, bytes]:
    """Kaggle unpacks archives into folders."""
    if not name.endswith(".zip"):
        return {name: content}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {f"{name[:-4]}/{inside}": archive.read(inside) for inside in archive.namelist()}


@contextmanager
def serving() -> Iterator[FakeKaggle]:
    """A server on a free port of loopback."""
    kaggle = FakeKaggle()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            kaggle.headers.append(self.headers.get("Authorization", ""))
            with lock:
                reply = kaggle.handle(urlsplit(self.path).path.rpartition("/")[2], json.loads(content or b"{}"))
            self._send(reply)

        def do_PUT(self) -> None:
            token = self.path.rpartition("/")[2]
            content = self._body()
            scripted = kaggle.script["PUT"].popleft() if kaggle.script["PUT"] else None
            if scripted is None:
                kaggle.blobs[token] = (kaggle.blobs[token][0], content)
            self._send(scripted or Reply())

        def do_GET(self) -> None:
            kind, _, name = unquote(urlsplit(self.path).path).strip("/").partition("/")
            self._send(Reply(body=kaggle.file(kind, name)))

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)

        def _send(self, reply: Reply) -> None:
            if reply.hold is not None:
                reply.hold.wait(60)
            content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body or {}).encode()
            self.send_response(reply.status)
            self.send_header("Content-Type", "text/plain" if isinstance(reply.body, bytes) else JSON)
            self.send_header("Content-Length", str(len(content)))
            for name, value in reply.headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            with suppress(BrokenPipeError):  # the client was stopped while it waited
                self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the calls are kept in `calls`."""

    lock = threading.Lock()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    kaggle.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield kaggle
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
