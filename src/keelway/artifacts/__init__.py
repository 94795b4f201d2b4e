"""Model files, safely: manifests, content-addressed blobs, archives, and the checks before anything is parsed."""
