"""Downloads from a server on the loopback interface, and from vaults."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from test_lockfile import GOOD, raw

from builder.artifacts import Archive
from builder.errors import FetchError, GoneError, UsageError
from builder.fetch import fetch
from builder.inputs import InputOptions, open_sources
from builder.lockfile import parse_lock
from builder.mirror import Mirrors
from builder.sources import HttpSource, SourceError, VaultSource, http_client, mirror_source, snapshot_source
from builder.store import Store
from builder.vault import fill_vault

CONTENT = bytes(range(256)) * 400
SHA = hashlib.sha256(CONTENT).hexdigest()


def archive(name="libx", content=CONTENT, pocket="trixie", version="1:1.0+b1"):
    return Archive(
        name=name,
        version=version,
        architecture="amd64",
        path=f"pool/main/{name}_1.0+b1_amd64.deb",
        pocket=pocket,
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


class Server:
    """Answers by path: bytes, or a function of (handler, byte offset asked for)."""

    def __init__(self):
        self.answers = {}
        self.requests = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                asked = self.headers.get("Range")
                outer.requests.append((self.path, asked))
                answer = outer.answers.get(self.path)
                if answer is None:
                    self.send(404, b"")
                elif callable(answer):
                    answer(self, int(asked[6:-1]) if asked else 0)
                else:
                    self.send(200, answer)

            def send(self, status, body, length=None, **headers):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(body) if length is None else length))
                self.end_headers()
                self.wfile.write(body)
                if length is not None:
                    self.close_connection = True

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def stop(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.stop()


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def mirror(server):
    with http_client() as client:
        source = mirror_source(Mirrors(archive=server.address, security=f"{server.address}/sec"), client)
        object.__setattr__(source, "sleep", lambda seconds: None)
        yield source


PATH = "/pool/main/libx_1.0+b1_amd64.deb"


def ranged(handler, offset):
    if offset:
        handler.send(206, CONTENT[offset:], Content_Range=f"bytes {offset}-{len(CONTENT) - 1}/{len(CONTENT)}")
    else:
        handler.send(200, CONTENT)


def leftovers(store):
    return [path for path in store.root.rglob("*") if path.is_file() and path.parent.name != "sha256"]


def test_brings_what_is_missing_and_only_that(server, store, mirror):
    server.answers[PATH] = CONTENT
    assert fetch([archive(), archive()], store, [mirror], recipe="r") == 1
    assert store.get(SHA, len(CONTENT)).read_bytes() == CONTENT
    assert fetch([archive()], store, [mirror], recipe="r") == 0
    assert server.requests == [(PATH, None)]
    assert leftovers(store) == []


def test_many_at_once(server, store, mirror):
    contents = {f"lib{index}": b"%d" % index * 3000 for index in range(30)}
    archives = [archive(name, content) for name, content in contents.items()]
    for item in archives:
        server.answers[f"/{item.path}"] = contents[item.name]
    assert fetch(archives, store, [mirror], recipe="r") == 30
    assert all(store.get(item.sha256, item.size) for item in archives)


def test_goes_on_where_an_earlier_run_stopped(server, store, mirror):
    server.answers[PATH] = ranged
    with store.partial(SHA) as partial:
        partial.write_bytes(CONTENT[:1000])
    fetch([archive()], store, [mirror], recipe="r")
    assert server.requests == [(PATH, "bytes=1000-")]
    assert store.get(SHA, len(CONTENT))


def test_damaged_beginning_is_fetched_again_from_the_start(server, store, mirror):
    server.answers[PATH] = ranged
    with store.partial(SHA) as partial:
        partial.write_bytes(b"X" * 1000)
    fetch([archive()], store, [mirror], recipe="r")
    assert server.requests == [(PATH, "bytes=1000-"), (PATH, None)]
    assert store.get(SHA, len(CONTENT)).read_bytes() == CONTENT


def test_server_without_ranges_starts_over(server, store, mirror):
    server.answers[PATH] = CONTENT
    with store.partial(SHA) as partial:
        partial.write_bytes(CONTENT[:10])
    fetch([archive()], store, [mirror], recipe="r")
    assert store.get(SHA, len(CONTENT))


def test_connection_that_breaks_is_resumed(server, store, mirror):
    def breaking(handler, offset):
        if offset == 0:
            handler.send(200, CONTENT[:5000], length=len(CONTENT))
        else:
            ranged(handler, offset)

    server.answers[PATH] = breaking
    fetch([archive()], store, [mirror], recipe="r")
    assert [asked for _, asked in server.requests] == [None, "bytes=5000-"]


def test_busy_server_is_asked_again(server, store, mirror):
    left = [503, 429, 500]
    server.answers[PATH] = lambda handler, offset: (
        handler.send(left.pop(), b"") if left else ranged(handler, offset)
    )
    fetch([archive()], store, [mirror], recipe="r")
    assert len(server.requests) == 4


@pytest.mark.parametrize("wrong", [b"y" * len(CONTENT), CONTENT + b"z", CONTENT[:-1]])
def test_wrong_content_is_never_kept_and_the_next_source_is_asked(server, store, mirror, tmp_path, wrong):
    vault = tmp_path / "vault"
    (vault / "sha256").mkdir(parents=True)
    (vault / "sha256" / SHA).write_bytes(wrong)
    with pytest.raises(FetchError, match="libx") as caught:
        fetch([archive()], store, [VaultSource(folder=vault)], recipe="r")
    assert "offers other content" in str(caught.value)
    assert store.get(SHA, len(CONTENT)) is None
    server.answers[PATH] = CONTENT
    assert fetch([archive()], store, [VaultSource(folder=vault), mirror], recipe="r") == 1


@pytest.mark.parametrize("wrong", [b"y" * len(CONTENT), CONTENT + b"z"])
def test_mirror_with_wrong_content(server, store, mirror, wrong):
    server.answers[PATH] = wrong
    with pytest.raises(FetchError):
        fetch([archive()], store, [mirror], recipe="r")
    assert store.get(SHA, len(CONTENT)) is None
    assert leftovers(store) == []


def test_sources_are_asked_in_order(server, store, mirror, tmp_path):
    vault = tmp_path / "vault"
    (vault / "sha256").mkdir(parents=True)
    (vault / "sha256" / SHA).write_bytes(CONTENT)
    server.answers[PATH] = CONTENT
    fetch([archive()], store, [VaultSource(folder=vault), mirror], recipe="r")
    assert server.requests == []


def test_snapshot_is_asked_last_with_the_time_of_the_index(server, store, mirror):
    with http_client() as client:
        snapshot = snapshot_source(f"{server.address}/snap/", {"trixie": 1795227000}, client)
        path = f"/snap/archive/debian/20261121T141000Z{PATH}"
        server.answers[path] = CONTENT
        fetch([archive()], store, [mirror, snapshot], recipe="r")
    assert server.requests == [(PATH, None), (path, None)]


def test_security_updates_are_looked_for_in_both_archives(server, store, mirror):
    server.answers[PATH] = CONTENT
    fetch([archive(pocket="trixie-security")], store, [mirror], recipe="r")
    assert server.requests == [(f"/sec{PATH}", None), (PATH, None)]


def test_archive_gone_everywhere_is_named_with_what_was_tried(store, mirror, tmp_path):
    (tmp_path / "vault/sha256").mkdir(parents=True)
    with pytest.raises(GoneError) as caught:
        fetch([archive()], store, [VaultSource(folder=tmp_path / "vault"), mirror], recipe="base")
    text = str(caught.value)
    assert "libx 1:1.0+b1" in text and "is gone from every source" in text
    assert "vault" in text and "mirror http://127.0.0.1" in text and "HTTP 404" in text
    assert caught.value.archives == ("libx=1:1.0+b1",)
    assert caught.value.hint == "goldsmith lock base"


def test_no_answer_is_not_the_same_as_gone(store, server, mirror):
    server.answers[PATH] = lambda handler, offset: handler.send(503, b"")
    with pytest.raises(FetchError) as caught:
        fetch([archive()], store, [mirror], recipe="base")
    assert not isinstance(caught.value, GoneError)
    assert "HTTP 503 (4 attempts)" in str(caught.value)


def test_what_arrived_before_a_failure_stays(server, store, mirror):
    server.answers[PATH] = CONTENT
    with pytest.raises(GoneError):
        fetch([archive(), archive("other", b"1")], store, [mirror], recipe="r")
    assert store.get(SHA, len(CONTENT))


@pytest.mark.parametrize("template", ["ftp://x", "http://x/{host}", "http://x/{", "http://x/{0}"])
def test_malformed_snapshot_addresses(template):
    with http_client() as client, pytest.raises(UsageError, match="GOLDSMITH_SNAPSHOT"):
        snapshot_source(template, {}, client)


def test_vault_is_filled_repaired_and_used(store, tmp_path):
    store.put_stream([CONTENT], sha256=SHA, size=len(CONTENT))
    vault = tmp_path / "vault"
    assert fill_vault(vault, [archive()], store) == 1
    assert fill_vault(vault, [archive()], store) == 0
    assert (vault / "index").read_text() == f"{SHA}  pool/main/libx_1.0+b1_amd64.deb\n"
    (vault / "sha256" / SHA).write_bytes(b"damaged")
    assert fill_vault(vault, [archive()], store) == 1
    other = Store(tmp_path / "other")
    assert fetch([archive()], other, [VaultSource(folder=vault)], recipe="r") == 1
    assert sorted(path.name for path in vault.iterdir()) == ["index", "sha256"]


def test_vault_keeps_the_index_lines_of_others(store, tmp_path):
    vault = tmp_path / "vault"
    vault.mkdir()
    (vault / "index").write_text(f"{'0' * 64}  pool/z.deb\n")
    store.put_stream([CONTENT], sha256=SHA, size=len(CONTENT))
    fill_vault(vault, [archive()], store)
    assert (vault / "index").read_text().splitlines()[1] == f"{'0' * 64}  pool/z.deb"


def test_vault_needs_the_archive_in_the_store(store, tmp_path):
    with pytest.raises(FetchError, match="libx"):
        fill_vault(tmp_path / "vault", [archive()], store)


def test_sources_from_options_and_environment(tmp_path):
    (tmp_path / "v/sha256").mkdir(parents=True)
    lock = parse_lock(raw(GOOD))
    environment = {"GOLDSMITH_VAULT": str(tmp_path / "v"), "GOLDSMITH_MIRROR": "http://m.test/debian",
                   "GOLDSMITH_SNAPSHOT": "http://s.test"}  # fmt: skip
    with open_sources(InputOptions(), lock, environment) as sources:
        assert [source.name.split()[0] for source in sources] == ["vault", "mirror", "snapshot"]
    with contextlib.ExitStack() as stack, pytest.raises(UsageError, match="no folder sha256"):
        stack.enter_context(open_sources(InputOptions(vault=Path("/nonexistent")), lock, environment))


def test_interruption_ends_the_downloads_and_keeps_what_arrived(server, store, mirror):
    class Interrupted(BaseException):
        pass

    class Source:
        name = "interrupting"

        def bring(self, archive, partial, advance):
            partial.write_bytes(CONTENT[:100])
            raise Interrupted

    with pytest.raises(Interrupted):
        fetch([archive()], store, [Source()], recipe="r")
    server.answers[PATH] = ranged
    fetch([archive()], store, [mirror], recipe="r")
    assert server.requests == [(PATH, "bytes=100-")]


def test_a_host_that_takes_no_connection_is_not_asked_at_length_for_every_archive(tmp_path):
    with socket.socket() as nobody:  # bound and not listening: every connection is refused
        nobody.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        naps: list[float] = []
        with http_client() as client:
            source = HttpSource(
                name="mirror",
                client=client,
                addresses=lambda item: (f"{base}/{item.path}",),
                sleep=naps.append,
            )
            for number in range(5):
                item = Archive(
                    name="a", version=str(number), architecture="all", path="pool/a", pocket="trixie", size=1,
                    sha256=f"{number:064x}",
                )  # fmt: skip
                with pytest.raises(SourceError, match="attempt"):
                    source.bring(item, tmp_path / "partial", lambda _: None)
        assert len(naps) == 3  # between the four attempts of the first archive only
