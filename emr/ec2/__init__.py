"""Jobs as steps of clusters of Amazon EMR, on machines of EC2."""
