"""Running the verifier on TDX quotes: the one that hardware signed, and those of a platform of our own."""

import tdx_quotes
import tdx_recorded
from attester import SIGNING_KEY, signed

from measurements.events import HashAlgorithm
from measurements.tdx import intel
from measurements.tdx.policy import Bits, ReportData, TcbPolicy
from measurements.verify.release import ReleasePolicy
from measurements.verify.tdx import TdPolicy, verify_quote
from measurements.verify.verdict import Status

SHA384 = HashAlgorithm.SHA384
SIGNERS = (SIGNING_KEY.public(),)
ENVELOPE = signed(tdx_recorded.release())
ZEROS = bytes(48)


def policy(*, threshold=1, signers=SIGNERS, now=tdx_recorded.NOW, svn=3, image=None, shape=None, profiles=(), gpu=None,
           **demands):  # fmt: skip
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
    tcb = TcbPolicy(collateral=tdx_recorded.collateral(), accepted=frozenset({"UpToDate"}))
    return TdPolicy(
        **{
            "release": release,
            "roots": (intel.sgx_root_ca(),),
            "tcb": tcb,
            "report_data": ReportData(value=tdx_recorded.REPORT_DATA),
            # Its applications extended RTMR3, and its owner set MRCONFIGID: both are known from elsewhere in real life.
            "rtmr3": frozenset({tdx_recorded.RTMR3_VALUE}),
            "mrconfigid": frozenset({tdx_recorded.MRCONFIGID}),
            "mrowner": frozenset({ZEROS}),
            "mrownerconfig": frozenset({ZEROS}),
            "attributes": Bits.exactly(1 << 28),
            "xfam": Bits.exactly(0x602E7),
        }
        | demands
    )


def run(quote=tdx_recorded.QUOTE, *, golden=ENVELOPE, event_log=None, **demands):
    return verify_quote(golden, quote, policy(**demands), event_log=event_log)


def failed(verdict):
    """Return what failed, by name."""
    assert not verdict.passed
    return {check.name: check.detail for check in verdict.checks if check.status is Status.FAILED}


def with_release(*references):
    return signed(tdx_recorded.release(*references))


PLATFORM = tdx_quotes.Platform()
#: What an attacker may put into a TD report.
TD_FIELDS = {"svn", "signer", "attributes", "xfam", "mrtd", "report_data", "mrowner"}


def own_quote(platform=PLATFORM, *, rtmr=None, **changes):
    """Return a quote of an imaginary platform about the recorded trust domain."""
    values = [item.value(SHA384).value for each in tdx_recorded.reference().registers[:3]
              for item in each.alternatives]  # fmt: skip
    for index, value in (rtmr or {}).items():
        values[index] = value
    fields = {name: changes.pop(name) for name in [*changes] if name in TD_FIELDS}
    report = tdx_quotes.td_report(
        **{"mrtd": tdx_recorded.MRTD.value, "rtmrs": (*values, ZEROS), "xfam": 0x602E7} | fields
    )
    return tdx_quotes.quote(platform, report=report, **changes)


def run_own(quote=None, *, platform=PLATFORM, **demands):
    own = {
        "now": tdx_quotes.NOW,
        "roots": platform.certificates()[:1],
        "tcb": TcbPolicy(collateral=platform.collateral(), accepted=frozenset({"UpToDate"})),
        "report_data": ReportData(value=tdx_quotes.REPORT_DATA),
        "rtmr3": frozenset({ZEROS}),
        "mrconfigid": frozenset({ZEROS}),
    }
    return run(own_quote(platform) if quote is None else quote, **own | demands)
