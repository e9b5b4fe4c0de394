"""From built files to a release folder: manifest, golden document, signatures, publication."""
