"""Folders and releases under a signal at the worst moment."""

from pathlib import Path

import pytest

from builder.atomic import temporary_folder
from builder.release.publish import publish


def interrupt_after(monkeypatch, method, *, call=1):
    """Let ``Path.<method>`` do its work, and a signal arrive before it returns, at its ``call``-th call."""
    real, calls = getattr(Path, method), []

    def patched(self, *arguments, **options):
        result = real(self, *arguments, **options)
        calls.append(self)
        if len(calls) == call:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(Path, method, patched)


def test_folder_is_gone_after_the_block(tmp_path):
    with temporary_folder("work.", parent=tmp_path) as folder:
        (folder / "file").write_text("x")
        assert folder.parent == tmp_path
        assert folder.stat().st_mode & 0o777 == 0o700
    assert list(tmp_path.iterdir()) == []


def test_folder_is_gone_when_a_signal_arrives_while_it_is_made(tmp_path, monkeypatch):
    interrupt_after(monkeypatch, "mkdir")
    with pytest.raises(KeyboardInterrupt), temporary_folder("work.", parent=tmp_path):
        pytest.fail("the block is not entered")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def two_releases(tmp_path):
    out, fresh = tmp_path / "dist" / "base", tmp_path / "dist" / ".build" / "release"
    for folder, text in ((out, "old"), (fresh, "new")):
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(text)
    return out, fresh


def test_new_release_replaces_the_old_one(two_releases):
    out, fresh = two_releases
    publish(fresh, out)
    assert (out / "manifest.json").read_text() == "new"
    assert [path.name for path in out.parent.iterdir() if path.name != ".build"] == ["base"]


@pytest.mark.parametrize(("call", "left"), [(1, "old"), (2, "new")])
def test_signal_between_the_renames_leaves_one_whole_release(two_releases, monkeypatch, call, left):
    out, fresh = two_releases
    interrupt_after(monkeypatch, "rename", call=call)
    with pytest.raises(KeyboardInterrupt):
        publish(fresh, out)
    assert (out / "manifest.json").read_text() == left
    assert [path.name for path in out.parent.iterdir() if path.name != ".build"] == ["base"]
