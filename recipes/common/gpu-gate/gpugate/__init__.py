"""The gate before confidential GPUs, and the evidence about them (docs/evidence-service.md)."""
