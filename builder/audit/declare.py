"""What a recipe declares about its image, as the audit takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from builder.audit.model import Declared, PolicyOption
from builder.audit.rules import ALL
from builder.audit.rules.modules import SIGNATURES
from builder.errors import RecipeError
from builder.recipe.merged import Recipe
from builder.recipe.model import KernelPolicy

_TREES = ("root", "initrd")


def declared_by(recipe: Recipe, *, module_certificate: bytes | None = None) -> Declared:
    """Return what the audit holds an image of this recipe against.

    Args:
        recipe: the image's.
        module_certificate: PEM; what signatures of the modules verify with that the recipe compiles.

    Raises:
        RecipeError: a waiver names a rule that there is not.
    """
    check_waivers(recipe.audit.waive)
    declared = Declared(
        name=recipe.name,
        version=recipe.version,
        command_line=recipe.command_line,
        debug_command_line=str(recipe.variables.get("debug_command_line", "")),
        modules={name: recipe.layer(name).modules for name in _TREES},
        interpreters={name: dict(recipe.layer(name).interpreters) for name in _TREES},
        setuid={name: dict(recipe.layer(name).setuid) for name in _TREES},
        ports=dict(recipe.audit.ports),
        kernel_policy=None if recipe.kernel_policy is None else _options(recipe.kernel_policy),
        waivers=dict(recipe.audit.waive),
    )
    return declared if module_certificate is None else with_signed_modules(declared, module_certificate)


def with_signed_modules(declared: Declared, certificate: bytes) -> Declared:
    """Return the same for an image whose every module is signed, by the kernel's key or by this certificate's (PEM).

    A waiver of the rule about signatures is for the build without them, and goes.
    """
    waivers = {rule: reason for rule, reason in declared.waivers.items() if rule != SIGNATURES}
    return replace(
        declared, module_certificate=certificate.decode("ascii", "backslashreplace"), waivers=waivers
    )


def check_waivers(waivers: Mapping[str, str]) -> None:
    """Check that each waived rule exists.

    Raises:
        RecipeError: one does not.
    """
    known = {rule.id for rule in ALL}
    if unknown := sorted(waivers.keys() - known):
        raise RecipeError(
            f"audit.waive: there is no rule {', '.join(unknown)}", hint="docs/audit.md lists every rule"
        )


def _options(policy: KernelPolicy) -> tuple[PolicyOption, ...]:
    required = (
        PolicyOption(option=item.option, value=item.value, wanted=None, reason=item.reason)
        for item in policy.required
    )
    accepted = (
        PolicyOption(option=item.option, value=item.kernel, wanted=item.wanted, reason=item.instead)
        for item in policy.accepted
    )
    return (*required, *accepted)
