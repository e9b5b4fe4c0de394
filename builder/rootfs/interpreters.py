"""No script without its interpreter, and no shell or interpreter that the recipe does not allow."""

from __future__ import annotations

import re
from collections.abc import Mapping

from builder.rootfs.findings import Findings
from builder.rootfs.permits import Missing
from builder.tree import Kind, Node, Tree

#: Programs that run a language. Multi-call binaries are here because they hold a shell.
_KNOWN = re.compile(
    r"(?:r?bash|dash|r?sh|ash|sash|zsh\d*|[lmpo]?ksh(?:93)?|rksh|yash|posh|fish|t?csh|elvish|nu|xonsh|busybox"
    r"|toybox|perl[\d.]*|python[\d.]*|pypy[\d.]*|ruby[\d.]*|lua(?:jit)?[\d.]*|node(?:js)?|php[\d.]*|[gm]?awk"
    r"|original-awk|tclsh[\d.]*|wish[\d.]*|expect|guile[\d.-]*|gjs|qjs|rlwrap|sulogin|gdb)\Z"
)
_PROGRAM_FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin")
_MAX_LINE = 256  # the kernel's BINPRM_BUF_SIZE


def check_interpreters(tree: Tree, allowed: Mapping[str, str], missing: Missing, findings: Findings) -> None:
    """Find scripts whose interpreter is absent, and interpreters that are not in the layer's list.

    A file counts as an interpreter when it is executable and has a known name, or when an executable script
    of the tree names it after ``#!``.
    """
    permitted: set[str] = set()
    for path in allowed:
        real = tree.resolve(path)
        if real is None:
            findings.note(f"`interpreters` allows {path}, which the tree does not have")
        else:
            permitted.add(real)
    for path, node in tree.items():
        if node.kind is Kind.SYMLINK or (node.kind is Kind.FILE and node.mode & 0o111):
            if _KNOWN.match(path.rpartition("/")[2]):
                _check_known(tree, path, node, permitted, findings)
            if node.kind is Kind.FILE and node.content[:2] == b"#!":
                _check_script(tree, path, node, permitted, missing, findings)


def script_interpreter(content: bytes | memoryview) -> tuple[str, ...]:
    """Return what follows ``#!``: the interpreter and, if there is one, its argument (execve(2))."""
    line = bytes(content[2:_MAX_LINE]).partition(b"\n")[0].decode("utf-8", "replace").strip()
    return tuple(line.split(maxsplit=1))


def _check_known(tree: Tree, path: str, node: Node, permitted: set[str], findings: Findings) -> None:
    real = tree.resolve(path)
    target = tree.get(real) if real else None
    if real is None or target is None or target.kind is not Kind.FILE or not target.mode & 0o111:
        return  # a dangling link is another check's concern, and data is no program
    if real not in permitted:
        findings.error(
            f"{path} ({node.origin}) is a shell or interpreter that the recipe does not allow",
            hint="exclude it, or list it under `interpreters` with a reason",
        )


def _check_script(
    tree: Tree, path: str, node: Node, permitted: set[str], missing: Missing, findings: Findings
) -> None:
    words = script_interpreter(node.content)
    where = f"the script {path} ({node.origin})"
    if not words:
        findings.error(f"{where} names no interpreter after #!")
        return
    names = [words[0]]
    if words[0].rpartition("/")[2] == "env" and len(words) > 1:
        program = words[1].removeprefix("-S").split()
        names += [word for word in program if "=" not in word and not word.startswith("-")][:1]
    for name in names:
        real = program_path(tree, name)
        if real is None:
            if not missing.permits(name):
                findings.error(
                    f"{where} needs the interpreter {name}, which the tree does not have",
                    hint="exclude the script, or list the interpreter in `missing`",
                )
        elif real not in permitted:
            findings.error(
                f"{where} runs on {name}, which the recipe does not allow",
                hint="exclude it, or list it under `interpreters` with a reason",
            )


def program_path(tree: Tree, name: str) -> str | None:
    """Return the executable file that a program name or absolute path leads to, or None."""
    candidates = [name] if name.startswith("/") else [f"{folder}/{name}" for folder in _PROGRAM_FOLDERS]
    for candidate in candidates:
        real = tree.resolve(candidate)
        node = tree.get(real) if real is not None else None
        if node is not None and node.kind is Kind.FILE and node.mode & 0o111:
            return real
    return None
