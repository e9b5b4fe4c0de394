"""One file for each PCR: which events a boot extends into it, in order, and which input causes each."""
