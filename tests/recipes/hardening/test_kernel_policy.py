"""The written policy of the kernel's configuration, against the configuration of the locked kernel."""

import re
from pathlib import Path

import pytest
import yaml

from builder.lockfile import read_lock
from builder.store import Store
from builder.toolbox import open_members

REPOSITORY = Path(__file__).parents[3]
POLICY = yaml.safe_load((REPOSITORY / "recipes/common/hardening/kernel-policy.yaml").read_text())
_OPTION = re.compile(r"^(CONFIG_[A-Z0-9_]+)=(.*)$", re.MULTILINE)


def configured(text):
    """Option -> value, as Kconfig writes it; quotes of strings taken off."""
    return {name: value.strip('"') for name, value in _OPTION.findall(text)}


def violations(policy, config):
    """What of the policy a configuration does not meet."""
    found = [
        f"{item['option']}: required {item['value']}, is {config.get(item['option'], 'n')}"
        for item in policy["required"]
        if config.get(item["option"], "n") != item["value"]
    ]
    return found + [
        f"{item['option']}: accepted as {item['kernel']}, is {config.get(item['option'], 'n')}"
        for item in policy["accepted"]
        if config.get(item["option"], "n") != item["kernel"]
    ]


def test_policy_is_well_formed():
    options = [item["option"] for part in ("required", "accepted") for item in POLICY[part]]
    assert len(options) == len(set(options)), "an option stands in the policy twice"
    assert set(POLICY) == {"required", "accepted"}
    for item in POLICY["required"]:
        assert set(item) == {"option", "value", "reason"} and all(isinstance(x, str) for x in item.values())
    for item in POLICY["accepted"]:
        assert set(item) == {"option", "wanted", "kernel", "instead"}
        assert all(isinstance(x, str) for x in item.values())
        assert item["wanted"] != item["kernel"], f"{item['option']} is as wanted: it belongs to `required`"


def test_parameters_that_the_policy_relies_on_are_sealed():
    """Every `name=value on the sealed command line` is there."""
    fragments = [
        yaml.safe_load((REPOSITORY / f"recipes/common/{name}.yaml").read_text())
        for name in ("kernel", "hardening", "lockdown-early")
    ]
    sealed = {word for item in fragments for word in item.get("command_line", ())}
    told = [
        word
        for item in POLICY["accepted"]
        for word in re.findall(r"(\S+) on the sealed command line", item["instead"])
    ]
    assert len(told) > 5
    assert set(told) <= sealed


def test_a_kernel_that_departs_from_the_policy_is_found():
    policy = {
        "required": [{"option": "CONFIG_A", "value": "y"}, {"option": "CONFIG_B", "value": "n"}],
        "accepted": [{"option": "CONFIG_C", "kernel": "100"}],
    }
    assert violations(policy, configured("CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=100\n")) == []
    assert len(violations(policy, configured("# CONFIG_A is not set\nCONFIG_B=m\nCONFIG_C=0\n"))) == 3


@pytest.mark.integration
def test_the_locked_kernel_meets_the_policy():
    lock = read_lock(REPOSITORY / "recipes/base/lock.json", recipe="base")
    (package,) = open_members(lock.members("kernel"), Store.default(), recipe="base")
    (entry,) = [item for item in package.entries() if item.path.startswith("/boot/config-")]
    config = configured(bytes(entry.content).decode())
    assert len(config) > 1000, "the configuration was not read"
    assert violations(POLICY, config) == []
