"""Load a recipe: read it and its fragments, check each, merge them, check the whole, read its files."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from builder.errors import RecipeError, UsageError
from builder.recipe import gpu
from builder.recipe.check import validate
from builder.recipe.files import files_folder, resolve_file
from builder.recipe.merge import Merged
from builder.recipe.merged import Recipe, RecipeFile
from builder.recipe.model import (
    File,
    Fragment,
    KernelPolicy,
    Layer,
    ModuleSource,
    RecipeDocument,
)
from builder.recipe.modules import module_files
from builder.recipe.platforms import Platform, SevSnpPlatform, TdxPlatform
from builder.recipe.yaml import Document, read_yaml
from measurements.errors import MeasurementError
from measurements.gpu.expectations import GpuExpectations, RimReference

MAX_FRAGMENTS = 200
MAX_PROBLEMS = 20


def find_recipe(name: str, *, base: Path | None = None) -> Path:
    """Return the recipe.yaml that a command line names: a path to it, its folder, or an image's name.

    Args:
        name: as the user wrote it; a bare name is looked up in ``recipes/`` of ``base`` and its parents.
        base: a directory; the current one if absent.

    Raises:
        UsageError: there is no such recipe; known ones are listed.
    """
    here = Path.cwd() if base is None else base
    given = here / name
    for candidate in (given, given / "recipe.yaml"):
        if candidate.is_file():
            return candidate
    roots = [parent / "recipes" for parent in (here, *here.parents) if (parent / "recipes").is_dir()]
    if name not in ("", ".", "..") and "/" not in name:
        for root in roots:
            if (root / name / "recipe.yaml").is_file():
                return root / name / "recipe.yaml"
    known = sorted(path.parent.name for root in roots[:1] for path in root.glob("*/recipe.yaml"))
    raise UsageError(
        f"no recipe {name!r}: neither a file, nor a folder with a recipe.yaml, nor a folder of recipes/",
        hint=f"recipes here: {', '.join(known) or 'none'}",
    )


def load_recipe(path: Path) -> Recipe:
    """Load ``recipes/<image>/recipe.yaml`` (or its folder) with everything it includes.

    Raises:
        RecipeError: anything wrong with it; as many problems as can be found at once, a line each, starting
            with ``file:line: key``.
    """
    path = path / "recipe.yaml" if path.is_dir() else path
    root = path.absolute().parent.parent
    document = read_yaml(path, _label(path.absolute(), root))
    documents = list(_with_includes(document, root, (), {}))
    problems: list[str] = []
    for item in documents:
        validate(RecipeDocument if item is document else Fragment, item.value, item.at, problems)
    _raise(problems)
    merged = Merged()
    for item in documents:
        merged.add(item)
    _raise(merged.problems)
    whole = validate(RecipeDocument, merged.value, merged.at, problems)
    _raise(problems)
    assert whole is not None
    return _finish(whole, document, documents, merged)


def _label(path: Path, root: Path) -> str:
    return str(PurePosixPath(root.name) / path.relative_to(root).as_posix())


def _with_includes(
    document: Document, root: Path, chain: tuple[str, ...], seen: dict[str, Document]
) -> Iterable[Document]:
    """Yield the fragments a document includes, depth first, each once, and the document last."""
    chain = (*chain, document.label)
    included = document.value.get("include", ())
    for index, name in enumerate(included if isinstance(included, tuple) else ()):
        at = document.at(("include", index))
        if not isinstance(name, str):
            continue  # the model's check names it
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\0" in name:
            raise RecipeError(f"{at}: expected the name of a fragment such as common/base, got {name!r}")
        path = root.joinpath(*parts[:-1], f"{parts[-1]}.yaml")
        label = _label(path, root)
        if label in chain:
            raise RecipeError(f"{at}: includes itself: {' -> '.join((*chain, label))}")
        if label in seen:
            continue
        if len(seen) >= MAX_FRAGMENTS:
            raise RecipeError(f"{at}: more than {MAX_FRAGMENTS} fragments")
        if not path.is_file():
            known = sorted(
                str(found.relative_to(root).with_suffix(""))
                for found in root.glob("*/*.yaml")
                if found.name != "recipe.yaml"
            )
            raise RecipeError(
                f"{at}: there is no fragment {label}", hint=f"fragments: {', '.join(known) or 'none'}"
            )
        fragment = read_yaml(path, label)
        seen[label] = fragment
        yield from _with_includes(fragment, root, chain, seen)
    yield document


def _finish(whole: RecipeDocument, document: Document, documents: list[Document], merged: Merged) -> Recipe:
    problems = [
        f"{document.label}:1: {key}: neither the recipe nor a fragment says it"
        for key in ("distribution", "kernel")
        if getattr(whole, key) is None
    ]
    _check_firmware(whole, merged, problems)
    command_line = (*(whole.kernel.command_line if whole.kernel else ()), *whole.command_line)
    variables: dict[str, str | int | bool] = {
        **whole.variables,
        "name": whole.name,
        "version": whole.version,
        "svn": whole.svn,
    }
    # Templates alone see the line as a whole; as a list it is part of the recipe's digest already.
    seen = {**variables, "command_line": " ".join(command_line)}
    problems.extend(
        f"{merged.at(('variables', key))}: this name is the image's own"
        for key in ("name", "version", "svn", "command_line")
        if key in whole.variables
    )
    files: dict[str, tuple[RecipeFile, ...]] = {}
    for name, layer in (("root", whole.root), ("initrd", whole.initrd)):
        _check_layer(name, layer, merged, problems)
        files[name] = _files(name, layer, merged, seen, problems)
    patches = {
        source.name: _patches(index, source, merged, problems)
        for index, source in enumerate(whole.module_sources)
    }
    kernel_policy = _kernel_policy(whole, merged, problems)
    expectations, rims, own = _gpu(whole, document, merged, problems)
    files["root"] = tuple(sorted((*files["root"], *own), key=lambda file: file.path))
    _raise(problems)
    assert whole.distribution is not None and whole.kernel is not None
    return Recipe(
        name=whole.name,
        version=whole.version,
        svn=whole.svn,
        summary=whole.summary,
        validity_days=whole.validity_days,
        distribution=whole.distribution,
        root=whole.root,
        initrd=whole.initrd,
        files=files,
        kernel_package=whole.kernel.package,
        command_line=command_line,
        toolbox=whole.toolbox,
        compiler=whole.compiler,
        module_sources=whole.module_sources,
        patches=patches,
        firmware=whole.firmware,
        emulators=whole.emulators,
        platforms=whole.platforms,
        sev_snp=whole.sev_snp,
        tdx=whole.tdx,
        variables=variables,
        path=document.path,
        sources=tuple(item.path for item in documents),
        audit=whole.audit,
        kernel_policy=kernel_policy,
        gpu=expectations,
        rims={rim.id: content for rim, content in rims.items()},
    )


def _gpu(
    whole: RecipeDocument, document: Document, merged: Merged, problems: list[str]
) -> tuple[GpuExpectations | None, dict[RimReference, bytes], tuple[RecipeFile, ...]]:
    """Read the manifests beside the recipe, and hold them against its section ``gpu``; give the image's files."""
    folder, label = document.path.parent / gpu.FOLDER, f"{PurePosixPath(document.label).parent}/{gpu.FOLDER}"
    if whole.gpu is None:
        if folder.exists():
            problems.append(
                f"{label}: reference values of GPUs, and neither the recipe nor a fragment says gpu"
            )
        return None, {}, ()
    at = merged.at(("gpu",))
    if wrong := gpu.check_driver(whole.gpu, whole.module_sources):
        problems.append(f"{merged.at(('gpu', 'driver'))}: {wrong}")
    try:
        rims = gpu.read_rims(folder, label)
        expectations = gpu.expectations_of(whole.gpu, rims)
        said = merged.document(("gpu",))[0].label
        return expectations, rims, gpu.gate_files(expectations, rims, said=said, folder=label)
    except RecipeError as error:
        problems.append(f"{error} ({error.hint})" if error.hint else str(error))
    except MeasurementError as error:
        problems.append(f"{at}: {error}")
    return None, {}, ()


def _kernel_policy(whole: RecipeDocument, merged: Merged, problems: list[str]) -> KernelPolicy | None:
    if whole.audit.kernel_policy is None:
        return None
    location = ("audit", "kernel_policy")
    owner, _ = merged.document(location)
    try:
        named = File(path="/kernel-policy", source=whole.audit.kernel_policy)
        origin = resolve_file(
            named, owner, merged.at(location), {}
        ).origin  # finds it below its folder, or says why not
        document = read_yaml(files_folder(owner.path) / whole.audit.kernel_policy, origin)
    except RecipeError as error:
        problems.append(str(error))
        return None
    policy = validate(KernelPolicy, document.value, document.at, problems)
    options = (
        [item.option for item in policy.required] + [item.option for item in policy.accepted]
        if policy
        else []
    )
    problems.extend(
        f"{origin}: {option} stands there twice"
        for option in dict.fromkeys(options)
        if options.count(option) > 1
    )
    return policy


def _files(
    name: str,
    layer: Layer,
    merged: Merged,
    variables: dict[str, str | int | bool],
    problems: list[str],
) -> tuple[RecipeFile, ...]:
    resolved = []
    for index, file in enumerate(layer.files):
        location = (name, "files", index)
        try:
            owner, _ = merged.document(location)
            resolved.append(resolve_file(file, owner, merged.at(location), variables))
        except RecipeError as error:
            problems.append(f"{error} ({error.hint})" if error.hint else str(error))
    for folder, modules in layer.python.items():
        try:
            resolved += module_files(folder, modules)
        except RecipeError as error:
            problems.append(f"{merged.at((name, 'python', folder))}: {error}")
    return tuple(sorted(resolved, key=lambda file: file.path))


def _patches(index: int, source: ModuleSource, merged: Merged, problems: list[str]) -> tuple[RecipeFile, ...]:
    resolved = []
    for number, name in enumerate(source.patches):
        location = ("module_sources", index, "patches", number)
        try:
            owner, _ = merged.document(location)
            file = File(path=f"/{name}", source=name)
            resolved.append(resolve_file(file, owner, merged.at(location), {}))
        except RecipeError as error:
            problems.append(f"{error} ({error.hint})" if error.hint else str(error))
    return tuple(resolved)


def _check_firmware(whole: RecipeDocument, merged: Merged, problems: list[str]) -> None:
    """Check that platforms name builds that are there, and of the kind that they start from."""
    known = {source.name: source.variables is None for source in whole.firmware}
    groups: tuple[tuple[str, Sequence[Platform | SevSnpPlatform | TdxPlatform], bool], ...] = (
        ("platforms", whole.platforms, False),
        ("sev_snp", whole.sev_snp, True),
        ("tdx", whole.tdx, True),
    )
    for key, platforms, single in groups:
        for index, platform in enumerate(platforms):
            named = [("firmware", platform.firmware)]
            if isinstance(platform, Platform):
                named.append(("secure_boot", platform.secure_boot))
            for member, position, wanted in (
                (member, position, name) for member, names in named for position, name in enumerate(names)
            ):
                at = merged.at((key, index, member, position))
                if wanted not in known:
                    names = ", ".join(sorted(known)) or "none"
                    problems.append(f"{at}: there is no firmware {wanted!r}; known: {names}")
                elif known[wanted] != single:
                    expected = "one file" if single else "two files, code and variables"
                    problems.append(f"{at}: {wanted} is not of the kind that {key} start from: {expected}")


def _check_layer(name: str, layer: Layer, merged: Merged, problems: list[str]) -> None:
    problems.extend(
        f"{merged.at((name, 'drop', pattern))}: {pattern} drops {package}, which is in {name}.packages"
        for pattern in layer.drop
        for package in fnmatch.filter(layer.packages, pattern)
    )
    problems.extend(
        f"{merged.at((name, 'units', 'mask', unit))}: {unit} is also in {name}.units.enable"
        for unit in layer.units.mask
        if unit in layer.units.enable
    )
    for kind, numbers in (
        ("users", [user.uid for user in layer.users]),
        ("groups", [group.gid for group in layer.groups]),
    ):
        for index, number in enumerate(numbers):
            if number in numbers[:index]:
                first = merged.at((name, kind, numbers.index(number)))
                problems.append(f"{merged.at((name, kind, index))}: the id {number} is taken in {first}")


def _raise(problems: list[str]) -> None:
    if not problems:
        return
    shown = problems[:MAX_PROBLEMS]
    if len(problems) > MAX_PROBLEMS:
        shown.append(f"… and {len(problems) - MAX_PROBLEMS} more")
    raise RecipeError("\n".join(shown))
