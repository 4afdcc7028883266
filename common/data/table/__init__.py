"""Image tables: images decoded once into Parquet, which any number of workers read without decoding them again.

A table is a folder on any file system that Arrow knows (local, `s3://`, `gs://`, `hdfs://`):

    dataset.json                 shape, pixel format, class names, counts, and which files belong to the table
    images/SPLIT-ID.parquet      pixels, label, name, split, fold; one split a file, ID a hash of what is in it
    quarantine/ID.parquet        name and reason of the images that could not be used
    report.html

`dataset.json` is written last and at once: what it does not name is not there for a reader.
"""
