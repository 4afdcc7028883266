"""Jobs as runs of applications of Amazon EMR Serverless."""
