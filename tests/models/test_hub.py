"""Weights from a hub: against a small server that answers as one does."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torch import nn

from handhold.errors import InputError, MissingFileError, WeightsError
from handhold.models.hub import local_file
from handhold.models.weights import read_weights, save_weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Small(nn.Module):
    config: object = None

    def __init__(self) -> None:
        super().__init__()
        from handhold.models.detector.model import DetectorConfig

        self.config = DetectorConfig()
        self.layer = nn.Linear(3, 2)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """What the server has; a test may add to it."""
    files: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            content = files.get(self.path)
            if content is None:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    from huggingface_hub import constants

    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield files
    server.shutdown()
    server.server_close()


def test_weights_come_by_name_and_stay(served: dict[str, bytes], tmp_path: Path) -> None:
    network = Small()
    file = save_weights(tmp_path / "w.safetensors", network, model="small")
    served["/ours/hands/resolve/v1/nets/w.safetensors"] = file.read_bytes()
    name = "hub:ours/hands/nets/w.safetensors@v1"
    found = read_weights(name)
    assert found.model == "small"
    assert torch.equal(found.entries["layer.weight"], network.layer.weight)
    assert "cache" in local_file(name).parts


def test_a_path_stays_a_path(tmp_path: Path) -> None:
    assert local_file(tmp_path / "a.safetensors") == tmp_path / "a.safetensors"


def test_what_the_hub_lacks_and_malformed_names(served: dict[str, bytes]) -> None:
    with pytest.raises(MissingFileError, match="no such file"):
        read_weights("hub:ours/hands/missing.safetensors")
    for name in ("hub:", "hub:ours/hands", "hub:a b/c/d"):
        with pytest.raises(InputError, match="OWNER/REPOSITORY/FILE"):
            local_file(name)


def test_another_file_is_refused(served: dict[str, bytes]) -> None:
    served["/ours/hands/resolve/main/notes.txt"] = b"no weights"
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        read_weights("hub:ours/hands/notes.txt")
