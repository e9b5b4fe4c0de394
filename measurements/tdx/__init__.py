"""One file for each register of an Intel TDX trust domain: MRTD, and RTMR0 to RTMR3 with the TD HOB."""
