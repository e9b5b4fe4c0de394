"""Keys that live in a PKCS #11 token: smart cards, hardware security modules, SoftHSM."""
