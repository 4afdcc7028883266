"""Image tables: images decoded once into Parquet, so that any number of workers read them without decoding.

A table is a folder on any file system that Arrow supports (local, `s3://`, `gs://`, `hdfs://`):

    dataset.json                 shape, pixel format, class names, counts, and which files belong to the table
    images/SPLIT-ID.parquet      pixels, label, name, split, fold; one split per file, ID a hash of its contents
    quarantine/ID.parquet        name and reason of skipped images
    report.html

`dataset.json` is written last, atomically. A reader ignores every file that it does not name.
"""
