"""A small Hugging Face Hub on 127.0.0.1, so that tests can speak to a Hub through the real client without a network.

It answers the endpoints that `huggingface_hub` needs for creating repos, committing (through Git LFS where the Hub
would), listing and downloading. A commit is an immutable mapping of path to content, named by a 40-hex sha; a branch
points at a commit; a revision is a branch or a full sha. There is no Xet, no pull request, no tag and no paging.
"""

import base64
import hashlib
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml


TOKEN = "hf_test"
USER = "tester"
LFS_SUFFIXES = (".safetensors", ".wav")
LFS_BINARY_SIZE = 10_000
GIT_ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
FRONT_MATTER = re.compile(r"\A---\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
REPO_ID = r"(?P<repo_id>[^/]+(?:/[^/]+)?)"
REVISION = r"(?P<revision>[^/]+)"
API = r"/api/(?P<kind>models|datasets|spaces)/" + REPO_ID
PAGE = r"/(?:(?P<kind>datasets|spaces)/)?" + REPO_ID

Files = dict[str, bytes]


class HubError(Exception):
    """A refusal; `code` is the X-Error-Code by which the client picks the exception that it raises."""

    def __init__(self, status: HTTPStatus, message: str, code: str = "", commit: str = "") -> None:
        super().__init__(message)
        self.status = status
        headers = {"X-Error-Message": ascii(message)[1:-1], "X-Error-Code": code, "X-Repo-Commit": commit}
        self.headers = {name: value for name, value in headers.items() if value}


@dataclass
class Repo:
    """The commits of one repo, oldest first, and its branches."""

    key: str
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def at(self, revision: str) -> tuple[str, Files]:
        sha = self.branches.get(revision, revision)
        if sha not in self.commits:
            raise HubError(HTTPStatus.NOT_FOUND, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha, self.commits[sha]

    def commit(self, branch: str, files: Files) -> str:
        """The sha names the repo, the history and the content, so that the same steps give the same sha."""
        tree = {path: git_oid(content) for path, content in sorted(files.items())}
        history = [self.key, len(self.commits), self.branches.get(branch), tree]
        sha = hashlib.sha1(json.dumps(history).encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_lfs(path: str, size: int, sample: bytes) -> bool:
    """Like git, take a file for binary when its first bytes hold a NUL; like the Hub, never store an empty one."""
    return size > 0 and (PurePosixPath(path).suffix in LFS_SUFFIXES or (size > LFS_BINARY_SIZE and b"\0" in sample))


def describe(path: str, content: bytes) -> dict[str, Any]:
    """A file as the tree and paths-info endpoints show it."""
    entry = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
    if is_lfs(path, len(content), content[:512]):
        sha256 = hashlib.sha256(content).hexdigest()
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(content)}\n".encode()
        entry |= {"oid": git_oid(pointer), "lfs": {"oid": sha256, "size": len(content), "pointerSize": len(pointer)}}
    return entry


def content_oid(path: str, content: bytes) -> str:
    """What names a content on the wire: its sha256 under LFS, else its git oid."""
    entry = describe(path, content)
    return entry.get("lfs", entry)["oid"]


def tree(files: Files) -> dict[str, dict[str, Any]]:
    """Every file and folder of a commit, by path."""
    folders = {str(folder) for path in files for folder in PurePosixPath(path).parents} - {"."}
    entries = {path: {"type": "directory", "path": path, "oid": git_oid(path.encode()), "size": 0} for path in folders}
    return dict(sorted((entries | {path: describe(path, content) for path, content in files.items()}).items()))


def read_card(content: str) -> tuple[dict[str, Any], str]:
    """The metadata of a README.md, and what is wrong with it, if anything."""
    front_matter = FRONT_MATTER.match(content)
    try:
        metadata = yaml.safe_load(front_matter[1]) if front_matter else {}
    except yaml.YAMLError as error:
        return {}, f"invalid yaml: {error}"
    if not isinstance(metadata, dict):
        return {}, "the metadata must be a mapping"
    return metadata, "" if isinstance(metadata.get("pipeline_tag", ""), str) else '"pipeline_tag" must be a string'


class LoopbackHub:
    """A Hub that lives as long as its `with` block.

    `requests` holds the (method, path) of each request, `private` the keys ("models/org/name") of the repos that
    hide from a reader without the token. While `drop_uploads_after` is a number, the connection of an LFS upload
    closes as soon as more than that many bytes have come, and the object is not stored.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: Files = {}
        self.requests: list[tuple[str, str]] = []
        self.private: set[str] = set()
        self.drop_uploads_after: int | None = None
        self.lock = threading.Lock()

    def __enter__(self) -> "LoopbackHub":
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """The whole environment of a subprocess whose client must see this Hub and keep its cache under `home`."""
        client = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_TOKEN": TOKEN}
        switches = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        return {"PATH": os.environ["PATH"], **client, **switches}

    def add(self, repo_id: str, files: Files | Path, repo_type: str = "model") -> str:
        """Commit files, or a folder's files, on top of main; a repo that is missing starts with just these."""
        if isinstance(files, Path):
            paths = [path for path in files.rglob("*") if path.is_file()]
            files = {path.relative_to(files).as_posix(): path.read_bytes() for path in paths}
        key = f"{repo_type}s/{repo_id}"
        with self.lock:
            repo = self.repos.setdefault(key, Repo(key))
            return repo.commit("main", repo.commits.get(repo.branches.get("main", ""), {}) | files)

    def files(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> Files:
        return dict(self.repos[f"{repo_type}s/{repo_id}"].at(revision)[1])

    def commits(self, repo_id: str, repo_type: str = "model") -> list[str]:
        """The shas of every commit, oldest first; a repo that the client created begins with the Hub's own."""
        return list(self.repos[f"{repo_type}s/{repo_id}"].commits)


class _Server(ThreadingHTTPServer):
    hub: LoopbackHub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client may go away at any time; anything else is a fault of this file, and shows."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


ROUTES: list[tuple[set[str], re.Pattern[str], bool, Callable[..., None]]] = []


def route(methods: str, pattern: str, needs_token: bool = False) -> Callable[[Callable], Callable]:
    """Register an endpoint; the named groups of its pattern are its arguments, a repo's id as the repo."""

    def register(endpoint: Callable[..., None]) -> Callable[..., None]:
        ROUTES.append((set(methods.split()), re.compile(pattern), needs_token, endpoint))
        return endpoint

    return register


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer leaves as one write, which spares each request a delayed acknowledgement

    def log_message(self, *_: object) -> None:
        """Tests read `requests` instead."""

    def serve(self) -> None:
        url = urlsplit(self.path)
        self.hub, self.query = self.server.hub, parse_qs(url.query)
        self.hub.requests.append((self.command, url.path))
        self.body = b"".join(self.pieces())
        try:
            self.dispatch(url.path)
        except HubError as error:
            self.answer({"error": str(error)}, error.status, error.headers)

    do_GET = do_HEAD = do_POST = do_PUT = serve

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes, up to the point where a test wants an upload to break."""
        limit = self.hub.drop_uploads_after if self.command == "PUT" else None
        left, received = int(self.headers.get("Content-Length", 0)), 0
        while left and (piece := self.rfile.read1(min(left, 65536))):
            left, received = left - len(piece), received + len(piece)
            if limit is not None and received > limit:
                raise ConnectionAbortedError("the test breaks this upload")
            yield piece

    def dispatch(self, path: str) -> None:
        for methods, pattern, needs_token, endpoint in ROUTES:
            if self.command in methods and (found := pattern.fullmatch(path)):
                groups = {name: unquote(value) for name, value in found.groupdict().items() if value}
                if "repo_id" in groups:
                    repo = self.find_repo(f"{groups.pop('kind', 'models')}/{groups.pop('repo_id')}", needs_token)
                    return endpoint(self, repo, **groups)
                if needs_token and not self.has_token():
                    raise HubError(HTTPStatus.UNAUTHORIZED, "Invalid username or password.")
                return endpoint(self, **groups)
        raise HubError(HTTPStatus.NOT_FOUND, f"No such endpoint: {self.command} {path}")

    def has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def find_repo(self, key: str, needs_token: bool) -> Repo:
        """Like the Hub, say of a repo that the reader may not see what is said of one that does not exist."""
        if not self.has_token() and (needs_token or key in self.hub.private):
            raise HubError(HTTPStatus.UNAUTHORIZED, "Invalid username or password.", "RepoNotFound")
        if key not in self.hub.repos:
            raise HubError(HTTPStatus.NOT_FOUND, "Repository not found", "RepoNotFound")
        return self.hub.repos[key]

    def answer(self, content: Any, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None) -> None:
        """Send bytes as they are and anything else as JSON."""
        body = content if isinstance(content, bytes) else json.dumps(content, default=str).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @route("GET", "/api/whoami-v2", needs_token=True)
    def whoami(self) -> None:
        self.answer({"type": "user", "id": USER, "name": USER, "fullname": USER, "isPro": False, "orgs": []})

    @route("POST", "/api/validate-yaml")
    def validate_yaml(self) -> None:
        metadata, error = read_card(json.loads(self.body)["content"])
        errors = [{"message": error}] if error else []
        warnings = [] if metadata or error else [{"message": "empty or missing yaml metadata in repo card"}]
        status = HTTPStatus.BAD_REQUEST if errors else HTTPStatus.OK
        self.answer({"errors": errors, "warnings": warnings}, status)

    @route("POST", "/api/repos/create", needs_token=True)
    def create_repo(self) -> None:
        """A new repo starts with a commit of the Hub's own, as the real one does."""
        wanted = json.loads(self.body)
        key = f"{wanted.get('type') or 'model'}s/{wanted['organization'] or USER}/{wanted['name']}"
        page = {"url": f"{self.hub.url}/{key.removeprefix('models/')}"}
        with self.hub.lock:
            if key in self.hub.repos:
                return self.answer({"error": "You already created this repo", **page}, HTTPStatus.CONFLICT)
            self.hub.repos[key] = Repo(key)
            self.hub.repos[key].commit("main", {".gitattributes": GIT_ATTRIBUTES})
            if wanted.get("visibility") == "private":
                self.hub.private.add(key)
        self.answer(page)

    @route("POST", API + "/branch/" + REVISION, needs_token=True)
    def create_branch(self, repo: Repo, revision: str) -> None:
        with self.hub.lock:
            if revision in repo.branches:
                raise HubError(HTTPStatus.CONFLICT, f"Reference already exists: {revision}")
            repo.branches[revision], _ = repo.at(json.loads(self.body or b"{}").get("startingPoint", "main"))
        self.answer({})

    @route("POST", API + "/preupload/" + REVISION, needs_token=True)
    def preupload(self, repo: Repo, revision: str) -> None:
        """Say how each file must come, and what the repo holds of it, by which the client leaves out what is equal."""
        _, files = repo.at(revision)
        answers = []
        for file in json.loads(self.body)["files"]:
            path, lfs = file["path"], is_lfs(file["path"], file["size"], base64.b64decode(file["sample"]))
            known = {"oid": content_oid(path, files[path])} if path in files else {}
            answers.append({"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, **known})
        self.answer({"files": answers})

    @route("POST", PAGE + r"\.git/info/lfs/objects/batch", needs_token=True)
    def lfs_batch(self, repo: Repo) -> None:
        """Ask for the objects that the Hub does not hold yet."""
        objects = [{"oid": wanted["oid"], "size": wanted["size"]} for wanted in json.loads(self.body)["objects"]]
        for entry in objects:
            if entry["oid"] not in self.hub.objects:
                entry["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{entry['oid']}"}}
        self.answer({"transfer": "basic", "objects": objects})

    @route("PUT", "/lfs/(?P<oid>[0-9a-f]{64})")
    def lfs_upload(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise HubError(HTTPStatus.BAD_REQUEST, f"The content is not that of {oid}")
        self.hub.objects[oid] = self.body
        self.answer(b"")

    @route("POST", API + "/commit/" + REVISION, needs_token=True)
    def commit(self, repo: Repo, revision: str) -> None:
        """All the operations become one commit, or the branch stays where it was."""
        operations = [json.loads(line) for line in self.body.splitlines()]
        with self.hub.lock:
            if revision not in repo.branches:
                raise HubError(HTTPStatus.NOT_FOUND, f"Invalid rev id: {revision}", "RevisionNotFound")
            head, files = repo.branches[revision], dict(repo.commits[repo.branches[revision]])
            for operation in operations:
                self.apply(operation["key"], operation["value"], files, head)
            sha = repo.commit(revision, files)
        url = f"{self.hub.url}/{repo.key.removeprefix('models/')}/commit/{sha}"
        self.answer({"success": True, "commitOid": sha, "commitUrl": url})

    def apply(self, key: str, value: dict[str, Any], files: Files, head: str) -> None:
        path = value.get("path", "")
        match key:
            case "header" if value.get("parentCommit", head) != head:
                raise HubError(HTTPStatus.PRECONDITION_FAILED, "A commit has happened since: retry")
            case "file":
                files[path] = base64.b64decode(value["content"])
            case "lfsFile" if value["oid"] in self.hub.objects:
                files[path] = self.hub.objects[value["oid"]]
            case "lfsFile":
                raise HubError(HTTPStatus.BAD_REQUEST, f"The LFS object of {path} was never uploaded")
            case "deletedFile" if path not in files:
                raise HubError(HTTPStatus.NOT_FOUND, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            case "deletedFile" | "deletedFolder":
                for name in [name for name in files if name == path or name.startswith(path.rstrip("/") + "/")]:
                    del files[name]

    @route("GET", API + "(?:/revision/" + REVISION + ")?")
    def repo_info(self, repo: Repo, revision: str = "main") -> None:
        sha, files = repo.at(revision)
        card, _ = read_card(files.get("README.md", b"").decode(errors="replace"))
        siblings = [{"rfilename": path} for path in sorted(files)]
        for sibling in siblings if self.query.get("blobs") == ["true"] else []:
            entry = describe(sibling["rfilename"], files[sibling["rfilename"]])
            lfs = {"lfs": {**entry["lfs"], "sha256": entry["lfs"]["oid"]}} if "lfs" in entry else {}
            sibling |= {"size": entry["size"], "blobId": entry["oid"], **lfs}
        info = {"id": repo.key.split("/", 1)[1], "sha": sha, "private": repo.key in self.hub.private, "gated": False}
        shown = {name: card[name] for name in ("pipeline_tag", "library_name", "sdk") if name in card}
        self.answer({**info, "tags": card.get("tags") or [], "cardData": card, "siblings": siblings, **shown})

    @route("GET", API + "/tree/" + REVISION + "(?:/(?P<path>.+))?")
    def list_tree(self, repo: Repo, revision: str, path: str = ".") -> None:
        sha, files = repo.at(revision)
        entries = tree(files)
        if path != "." and entries.get(path, {}).get("type") != "directory":
            raise HubError(HTTPStatus.NOT_FOUND, f"{path} does not exist on {revision}", "EntryNotFound", sha)
        recursive, folder = self.query.get("recursive") == ["true"], PurePosixPath(path)
        below = {name: PurePosixPath(name).parents if recursive else [PurePosixPath(name).parent] for name in entries}
        self.answer([entries[name] for name, folders in below.items() if folder in folders])

    @route("POST", API + "/paths-info/" + REVISION)
    def paths_info(self, repo: Repo, revision: str) -> None:
        entries = tree(repo.at(revision)[1])
        self.answer([entries[path] for path in parse_qs(self.body.decode()).get("paths", []) if path in entries])

    @route("GET HEAD", PAGE + "/resolve/" + REVISION + "/(?P<path>.+)")
    def download(self, repo: Repo, revision: str, path: str) -> None:
        sha, files = repo.at(revision)
        if path not in files:
            raise HubError(HTTPStatus.NOT_FOUND, "Entry not found", "EntryNotFound", sha)
        content, size = files[path], len(files[path])
        headers = {"ETag": f'"{content_oid(path, content)}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return self.answer(content, headers=headers)
        start, end = int(wanted[1]), min(int(wanted[2] or size), size - 1)
        if start > end:
            raise HubError(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, f"The file has {size} bytes")
        headers["Content-Range"] = f"bytes {start}-{end}/{size}"
        self.answer(content[start : end + 1], HTTPStatus.PARTIAL_CONTENT, headers)
