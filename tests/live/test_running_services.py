"""What runs on the machine, as whom, with what rights, and what listens."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

#: Service -> state in which it stays (systemctl(1), the unit's ACTIVE and SUB).
SERVICES = {
    "goldsmith-evidence-serial.service": ("activating", "start"),  # until a host opens its port
    "goldsmith-firewall.service": ("active", "exited"),
    "goldsmith-readback.service": ("active", "exited"),
    "systemd-journald.service": ("active", "running"),
    "systemd-modules-load.service": ("active", "exited"),
    "systemd-networkd.service": ("active", "running"),
    "systemd-pcrphase-sysinit.service": ("active", "exited"),
    "systemd-pcrphase.service": ("active", "exited"),
    "systemd-sysctl.service": ("active", "exited"),
    "systemd-tmpfiles-setup-dev-early.service": ("active", "exited"),
    "systemd-tmpfiles-setup-dev.service": ("active", "exited"),
    "systemd-tmpfiles-setup.service": ("active", "exited"),
    "systemd-udev-trigger.service": ("active", "exited"),
    "systemd-udevd.service": ("active", "running"),
}
SOCKETS = {
    "goldsmith-evidence.socket", "systemd-journald-dev-log.socket", "systemd-journald.socket",
    "systemd-networkd.socket", "systemd-udevd-control.socket", "systemd-udevd-kernel.socket",
}  # fmt: skip
EXTENSION = "goldsmith-live.service"

#: capabilities(7)
CAPABILITIES = {
    name: 1 << number
    for name, number in {
        "chown": 0, "dac_override": 1, "dac_read_search": 2, "fowner": 3, "net_bind_service": 10,
        "net_broadcast": 11, "net_admin": 12, "net_raw": 13, "sys_ptrace": 19, "sys_admin": 21, "mknod": 27,
        "syslog": 34,
    }.items()
}  # fmt: skip
#: Unit -> (user id, its capabilities). PID 1 has them all.
PROCESSES = {
    "goldsmith-evidence-serial.service": (980, ()),
    "systemd-journald.service": (
        0, ("chown", "dac_override", "dac_read_search", "fowner", "sys_admin", "sys_ptrace", "syslog")
    ),
    "systemd-networkd.service": (998, ("net_admin", "net_bind_service", "net_broadcast", "net_raw")),
    "systemd-udevd.service": (0, ("chown", "dac_override", "fowner", "mknod", "net_admin", "sys_admin")),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process of user space."""

    unit: str
    command: str
    status: dict[str, str]


@pytest.fixture(scope="module")
def processes(host) -> list[Process]:
    """Every process with a command line, hence none of the kernel's; without the extension's own."""
    text = host.check_output(
        # udev's workers come and go: a process that has ended meanwhile is skipped.
        'for folder in /proc/[0-9]*; do [ -n "$(tr "\\0" x < $folder/cmdline)" ] || continue; '
        'echo "@ $(cat $folder/cgroup) @ $(tr "\\0" " " < $folder/cmdline)"; cat $folder/status; done 2>/dev/null; true'
    )
    found = []
    for block in f"\n{text}".split("\n@ ")[1:]:
        head, *lines = block.splitlines()
        group, _, command = head.partition(" @ ")
        unit = next(
            (part for part in group.split("/") if "." in part and part.rpartition(".")[2] != "slice"), ""
        )
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        if unit != EXTENSION:
            found.append(
                Process(
                    unit=unit,
                    command=command.strip(),
                    status={key: value.strip() for key, value in fields.items()},
                )
            )
    return found


def test_the_machine_came_up(host):
    assert host.check_output("systemctl is-system-running || true") == "running"
    assert host.check_output("systemctl list-units --failed --plain --no-legend --no-pager") == ""


def test_services(host):
    rows = host.check_output("systemctl list-units --all --type=service --plain --no-legend --no-pager")
    found = {
        name: (active, sub)
        for name, load, active, sub, *_ in (line.split() for line in rows.splitlines())
        if load == "loaded" and (active, sub) != ("inactive", "dead") and name != EXTENSION
    }
    found = {name: state for name, state in found.items() if not name.startswith("goldsmith-evidence@")}
    # It answered once, or is about to start again.
    assert found.pop("goldsmith-evidence-serial.service")[0] in ("activating", "active")
    expected = {
        name: state for name, state in SERVICES.items() if name != "goldsmith-evidence-serial.service"
    }
    assert found == expected


def test_sockets_of_units(host):
    rows = host.check_output("systemctl list-units --type=socket --plain --no-legend --no-pager")
    assert {line.split()[0] for line in rows.splitlines()} == SOCKETS


def test_testinfra_reads_the_same(host):
    assert host.service("systemd-networkd").is_running
    assert host.service("goldsmith-firewall").is_running
    assert host.socket("tcp://:::8440").is_listening


def test_listening_sockets(host):
    """TCP and UDP, IPv4 and IPv6: the evidence port, and the DHCP client's."""
    assert set(host.check_output("netstat -lnt | awk '/^tcp/ { print $4 }'").split()) == {":::8440"}
    ports = {
        line.rpartition(":")[2]
        for line in host.check_output("netstat -lnu | awk '/^udp/ { print $4 }'").split()
    }
    assert ports <= {"68", "546"}
    for kind in ("raw", "raw6", "udplite", "udplite6"):
        lines = host.check_output(f"cat /proc/net/{kind} 2>/dev/null || true").splitlines()[1:]
        # networkd hears neighbour discovery (protocol 58, ICMPv6) through a raw socket.
        assert [line for line in lines if ":003A " not in line.split()[1] + " "] == [], kind


def test_unix_sockets_belong_to_systemd(host):
    listening = {
        line.split()[-1] for line in host.check_output("netstat -lnx").splitlines() if "/" in line.split()[-1]
    }
    assert listening
    assert {
        path for path in listening if not path.startswith(("/run/systemd/", "/run/udev/control"))
    } == set()


def test_processes_are_the_services(processes):
    assert {process.unit for process in processes} - {"init.scope"} == set(PROCESSES)
    assert [process.command.split()[0] for process in processes if process.unit == "init.scope"] == [
        "/usr/lib/systemd/systemd"
    ]


@pytest.mark.parametrize("unit", PROCESSES)
def test_rights_of_a_service(processes, unit):
    """User, capabilities, no way to more, and a filter of system calls, as the kernel has them (proc_pid_status(5))."""
    user, names = PROCESSES[unit]
    mask = sum(CAPABILITIES[name] for name in names)
    mine = [process for process in processes if process.unit == unit]
    assert mine
    for process in mine:
        status = process.status
        assert status["Uid"].split() == [str(user)] * 4
        assert int(status["CapBnd"], 16) == mask and int(status["CapEff"], 16) == mask
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2" and int(status["Seccomp_filters"]) > 1


def test_evidence_service_sees_nothing_of_the_machine(host, processes):
    """Its namespaces are its own, and what it may start is one program."""
    (process,) = [item for item in processes if item.unit == "goldsmith-evidence-serial.service"]
    identifier = process.status["Pid"]
    for space in ("mnt", "net", "ipc", "user", "uts"):
        own, machine = (host.check_output(f"readlink /proc/{pid}/ns/{space}") for pid in (identifier, "1"))
        assert own != machine, space


def test_no_service_starts_what_can_be_written(host, processes):
    """In each service's own mount namespace, programs start from the verity root and from nowhere else."""
    for process in processes:
        lines = host.check_output(f"cat /proc/{process.status['Pid']}/mountinfo || true").splitlines()
        for line in lines:
            left, _, right = line.partition(" - ")
            place, options, kind = left.split()[4], left.split()[5].split(","), right.split()[0]
            assert "noexec" in options or ("ro" in options and kind == "erofs"), f"{process.unit}: {place}"


def test_packet_filter_is_the_recipes(host):
    """The kernel's own rules: one table for both families, three chains that drop, one open port."""
    ruleset = json.loads(host.check_output("nft -j list ruleset"))["nftables"]
    assert [item["table"]["name"] for item in ruleset if "table" in item] == ["goldsmith"]
    assert {item["table"]["family"] for item in ruleset if "table" in item} == {"inet"}
    chains = {item["chain"]["name"]: item["chain"] for item in ruleset if "chain" in item}
    assert {name: (chain["hook"], chain["policy"]) for name, chain in chains.items()} == {
        name: (name, "drop") for name in ("input", "forward", "output")
    }
    sets = {item["set"]["name"]: item["set"].get("elem", []) for item in ruleset if "set" in item}
    assert sets == {"tcp_services": [8440], "udp_services": []}
    rules = [item["rule"] for item in ruleset if "rule" in item]
    assert {rule["chain"] for rule in rules} == {"input", "output"}
    # Whatever a rule accepts, it names by interface, port or message type: none accepts everything.
    assert all(any("match" in part for part in rule["expr"]) for rule in rules)
    answers = [rule for rule in rules if rule["chain"] == "output" and "flags" in json.dumps(rule)]
    assert len(answers) == 1, "TCP goes out as an answer alone"
    assert [
        rule for rule in rules if rule["chain"] == "output" and '"protocol": "tcp"' in json.dumps(rule)
    ] == answers


def test_network(host):
    """One card with DHCP's address, no forwarding, no route to anywhere else."""
    assert set(host.check_output("ls /sys/class/net").split()) == {"lo", "enp0s3"}
    assert host.interface("enp0s3").exists
