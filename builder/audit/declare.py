"""What a recipe declares about its image, as the audit takes it."""

from __future__ import annotations

from collections.abc import Mapping

from builder.audit.model import Declared, PolicyOption
from builder.audit.rules import ALL
from builder.errors import RecipeError
from builder.recipe.merged import Recipe
from builder.recipe.model import KernelPolicy

_TREES = ("root", "initrd")


def declared_by(recipe: Recipe) -> Declared:
    """Return what the audit holds an image of this recipe against.

    Raises:
        RecipeError: a waiver names a rule that there is not.
    """
    check_waivers(recipe.audit.waive)
    return Declared(
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
