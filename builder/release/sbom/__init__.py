"""What an image is made of: SPDX and CycloneDX from one inventory, and a reader of what was written."""
