"""What every part of a recipe's model is made of: strict models, and names of one form each."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

VariableName = Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_]*$", max_length=64)]
#: What every JSON reader holds exactly (RFC 8785, section 3.2.2.3).
SafeInteger = Annotated[int, Field(ge=-(2**53) + 1, le=2**53 - 1)]
PackageName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9+.-]+$", max_length=128)]
PackagePattern = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9+.*-]+$", max_length=128)]
DebianVersion = Annotated[str, StringConstraints(pattern=r"^[0-9][A-Za-z0-9.+~:-]*$", max_length=128)]
AbsolutePath = Annotated[str, StringConstraints(pattern=r"^/[^\x00\n]*$", max_length=1024)]
Glob = Annotated[str, StringConstraints(pattern=r"^/[^\x00\n]*$", max_length=1024)]
Reason = Annotated[str, StringConstraints(min_length=8, max_length=500, strip_whitespace=True)]
UnitName = Annotated[
    str,
    StringConstraints(
        pattern=r"^[A-Za-z0-9:_.\\@-]+\.(service|socket|target|mount|automount|timer|path|slice|swap|device)$"
    ),
]
AccountName = Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_-]{0,30}$")]
ModuleName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+$", max_length=64)]
Mode = Annotated[str, StringConstraints(pattern=r"^[0-7]{4}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9.-]*$", max_length=64)]
RelativePath = Annotated[
    str,
    StringConstraints(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*$", max_length=512
    ),
]
Command = Annotated[tuple[str, ...], Field(min_length=1)]
PythonModule = Annotated[
    str, StringConstraints(pattern=r"^measurements(\.[a-z_][a-z0-9_]*)*$", max_length=128)
]


class Model(BaseModel):
    """Strict: an unknown key or a wrong type is an error, nothing is coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
