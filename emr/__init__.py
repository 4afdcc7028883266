"""Amazon EMR: build, upload, submit, follow, fetch, terminate."""
