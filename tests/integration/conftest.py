"""One store, one key, one release and a few boots, shared by every integration test.

Nothing here skips: these tests are the product's promise, so a machine that cannot reach the archive and has no
filled store fails them and says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from attacking import Desk
from running import RECIPE, RELEASE_VARIABLE, ROOT, BootRun, Goldsmith

from builder.artifacts import Lock
from builder.lockfile import read_lock
from builder.release import manifest as manifests
from builder.store import Store
from builder.toolbox import firmware, unpack_toolbox
from measurements.envelope import parse_statement, verify_envelope
from measurements.golden import GoldenDocument
from measurements.keys import KeyAlgorithm, generate, load_public_key


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder, one whose file forgets it too; `wire` below it tests itself without boots."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def goldsmith() -> Goldsmith:
    """The command, as a user starts it, from the checkout."""
    return Goldsmith(cwd=ROOT)


@pytest.fixture(scope="session")
def store(goldsmith: Goldsmith) -> Store:
    """The user's own store, holding every input of recipes/base."""
    done = goldsmith("fetch", "base", timeout=900)
    if done.code != 0:
        pytest.fail(
            "the integration tests need the inputs that recipes/base/lock.json names: network access to a Debian "
            "mirror, or GOLDSMITH_VAULT=DIR with a filled vault, or a store filled before (GOLDSMITH_STORE).\n"
            f"`goldsmith fetch base` said:\n{done.stderr}",
            pytrace=False,
        )
    return Store.default()


@pytest.fixture(scope="session")
def lock(store: Store) -> Lock:
    """The committed lock, every archive of which is in the store."""
    return read_lock(RECIPE / "lock.json", recipe="base")


@pytest.fixture(scope="session")
def signing_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A throw-away private key (Ed25519, PEM)."""
    path = tmp_path_factory.mktemp("key") / "release.pem"
    path.write_bytes(generate(KeyAlgorithm.ED25519).pem())
    return path


@pytest.fixture(scope="session")
def release(
    goldsmith: Goldsmith, store: Store, signing_key: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A release of recipes/base, qcow2 included, or the folder that the environment names; only copies are changed."""
    if given := os.environ.get(RELEASE_VARIABLE):
        return Path(given)
    out = tmp_path_factory.mktemp("release") / "base"
    done = goldsmith(
        "build", "base", "--offline", "--out", out, "--key", signing_key, "--format", "qcow2", timeout=300
    )
    if done.code != 0:
        pytest.fail(f"`goldsmith build base` ended with {done.code}:\n{done.stderr}", pytrace=False)
    return out


@pytest.fixture(scope="session")
def gpu_release(
    goldsmith: Goldsmith, store: Store, signing_key: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A release of recipes/gpu-cc; only copies are changed. A store that never saw it compiles for a minute or two."""
    out = tmp_path_factory.mktemp("gpu") / "gpu-cc"
    for arguments in (
        ("fetch", "gpu-cc"),
        ("build", "gpu-cc", "--offline", "--out", out, "--key", signing_key),
    ):
        done = goldsmith(*arguments, timeout=900)
        if done.code != 0:
            pytest.fail(
                f"`goldsmith {arguments[0]} gpu-cc` ended with {done.code}:\n{done.stderr}", pytrace=False
            )
    return out


@pytest.fixture(scope="session")
def secure_boot_keys(goldsmith: Goldsmith, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A throw-away Secure Boot key set."""
    folder = tmp_path_factory.mktemp("secure-boot") / "keys"
    done = goldsmith("keys", "make", folder, "--name", "Integration test", timeout=60)
    if done.code != 0:
        pytest.fail(f"`goldsmith keys make` ended with {done.code}:\n{done.stderr}", pytrace=False)
    return folder


@pytest.fixture(scope="session")
def sealed(
    goldsmith: Goldsmith,
    release: Path,
    secure_boot_keys: Path,
    signing_key: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The release, signed for Secure Boot with these keys; tests copy it before they change it."""
    out = tmp_path_factory.mktemp("sealed") / "base"
    done = goldsmith(
        "seal", release, "--keys", secure_boot_keys, "--key", signing_key, "--out", out, timeout=120
    )
    if done.code != 0:
        pytest.fail(f"`goldsmith seal` ended with {done.code}:\n{done.stderr}", pytrace=False)
    return out


@pytest.fixture(scope="session")
def boot(
    goldsmith: Goldsmith, release: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., BootRun]:
    """Boot the release with these options; the same options boot once in a session."""
    runs: dict[tuple[str, ...], BootRun] = {}

    def run(*options: str) -> BootRun:
        if options not in runs:
            runs[options] = goldsmith.boot(release, *options, folder=tmp_path_factory.mktemp("boot"))
        return runs[options]

    return run


@pytest.fixture(scope="session")
def genuine(boot: Callable[..., BootRun]) -> BootRun:
    """The boot whose evidence most attacks start from."""
    return boot("--firmware", "ovmf-2025.02")


@pytest.fixture(scope="session")
def desk(release: Path, lock: Lock, store: Store) -> Desk:
    """The operator's desk, with every firmware build of the release."""
    builds = firmware(manifests.load(release).firmware, lock, store)
    return Desk(release, unpack_toolbox(lock, store), builds, store)


@pytest.fixture(scope="session")
def document(release: Path) -> GoldenDocument:
    """The golden document that the release's own key signed."""
    key = load_public_key((release / "release.pub").read_bytes())
    return parse_statement(verify_envelope((release / "golden.dsse.json").read_bytes(), [key]))
