"""UEFI Secure Boot: keys, what enrols them, and the signature over a UKI.

Everything here takes and returns bytes and values; files are the command line's. All signatures are RSA PKCS #1
v1.5 over SHA-256 without a signing time: the same key and input always give the same bytes.
"""
