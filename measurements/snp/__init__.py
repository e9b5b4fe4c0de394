"""AMD SEV, SEV-ES and SEV-SNP: what is measured at launch, ID blocks, and attestation reports."""
