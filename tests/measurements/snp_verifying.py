"""Running the verifier on SEV-SNP reports of guests that were launched as a test says."""

from dataclasses import replace

import snp_reports
from attester import NOW, SIGNING_KEY, document, prediction, signed
from confidential_samples import snp
from cryptography.hazmat.primitives.asymmetric import ec

from measurements.snp.idblock import release_ids
from measurements.snp.policy import GuestPolicy
from measurements.snp.tcb import TcbVersion
from measurements.snp.verify import report_data_of
from measurements.verify.release import ReleasePolicy
from measurements.verify.snp import SnpPolicy, verify_report
from measurements.verify.verdict import Status

KEY = ec.generate_private_key(ec.SECP384R1())
AUTHORITY = snp_reports.Authority()
NONCE = b"n" * 32
ID_KEY, AUTHOR_KEY = b"k" * 48, b"a" * 48
LAUNCHES = tuple(snp(vcpus=vcpus, cpu=cpu) for cpu in ("EPYC-Milan", "EPYC-Genoa") for vcpus in (1, 2, 4))
GOLDEN = replace(document(prediction()), sev_snp=LAUNCHES)
SIGNERS = (SIGNING_KEY.public(),)
ENVELOPE = signed(GOLDEN)
CERTIFICATES = (
    snp_reports.der(AUTHORITY.endorse(KEY.public_key())),
    snp_reports.der(AUTHORITY.middle),
)
#: Offsets in a report (AMD 56860, table 23).
SVN, POLICY, FAMILY, IMAGE, VMPL, DATA, DIGEST, HOST, ID, AUTHOR = (
    0x04, 0x08, 0x10, 0x20, 0x30, 0x50, 0x90, 0xC0, 0xE0, 0x110,
)  # fmt: skip


def report(digest=LAUNCHES[1].launch_digest.value, key=KEY, **at):
    """Return a report of a guest with this launch digest; ``at`` sets further fields by name."""
    fields = {DATA: report_data_of(NONCE), DIGEST: digest, POLICY: (0x30000).to_bytes(8, "little")}
    fields |= {VMPL: bytes(4), HOST: bytes(32), ID: bytes(48), AUTHOR: bytes(48)}
    fields |= {globals()[name.upper()]: value for name, value in at.items()}
    return snp_reports.forged(key, at=fields)


def with_block(image="base", version="0.1.0", svn=3, id_key=ID_KEY, **at):
    """Return a report of a guest that was launched with an ID block."""
    family_id, image_id = release_ids(image, version)
    at = {"id": id_key, "author": AUTHOR_KEY, "svn": svn.to_bytes(4, "little")} | at
    return report(family=family_id, image=image_id, **at)


def policy(
    *, threshold=1, signers=SIGNERS, now=NOW, svn=3, image=None, shape=None, profiles=(), gpu=None, **demands
):
    release = ReleasePolicy(
        signers=signers,
        threshold=threshold,
        now=now,
        minimum_svn=svn,
        image=image,
        shape=shape,
        profiles=profiles,
        gpu=gpu,
    )
    return SnpPolicy(
        **{
            "release": release,
            "report_data": report_data_of(NONCE),
            "guest_policy": GuestPolicy(),
            "minimum_tcb": TcbVersion(bootloader=10, tee=0, snp=27, microcode=88),
            "host_data": bytes(32),
            "trusted": (AUTHORITY.root,),
        }
        | demands
    )


def run(data=None, *, golden=ENVELOPE, given=CERTIFICATES, **demands):
    return verify_report(golden, report() if data is None else data, given, policy(**demands))


def failed(verdict):
    """Return what failed, by name."""
    assert not verdict.passed
    return {check.name: check.detail for check in verdict.checks if check.status is Status.FAILED}
