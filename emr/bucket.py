"""Objects on S3: artefacts are uploaded once, run folders are fetched whole."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from botocore.exceptions import ClientError

from common.errors import InputError, RunError
from common.run.folder import LAST
from emr.aws import DENIED, Aws, code_of, explained
from emr.settings import PROJECT, Settings

ENCRYPTION = "AES256"
NOT_FOUND = {"404", "NoSuchBucket", "NotFound", "NoSuchKey"}
PUBLIC_ACCESS = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")


def project_bucket(aws: Aws, settings: Settings) -> Bucket:
    """Return the bucket of the project's objects, whether or not it exists."""
    return Bucket(aws, settings.bucket_in(aws.identity.account, aws.region))


class Bucket:
    """A bucket, in which the project uses everything below one prefix.

    Args:
        aws: the services.
        name: the bucket's name.
    """

    def __init__(self, aws: Aws, name: str) -> None:
        self.name = name
        self._s3 = aws.s3
        self._region = aws.region
        # part of every request, so that no bucket of this name in another account is used by mistake
        self._owner = {"ExpectedBucketOwner": aws.identity.account}
        self._bucket = {"Bucket": name, **self._owner}

    def region(self) -> str | None:
        """Return the region of the bucket, or None if there is no such bucket.

        Raises:
            InputError: the bucket belongs to another account.
        """
        with explained(f"bucket {self.name}"):
            try:
                answer = self._s3.head_bucket(**self._bucket)
            except ClientError as error:
                if code_of(error) in NOT_FOUND:
                    return None
                if code_of(error) in DENIED:
                    raise InputError(
                        f"bucket {self.name}: it is another account's, or you have no access; name one of yours"
                    ) from error
                headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
                if "x-amz-bucket-region" in headers:  # 301 or 400: the request went to the wrong region
                    return str(headers["x-amz-bucket-region"])
                raise
        return str(answer.get("BucketRegion") or self._region)

    def existing(self) -> Bucket:
        """Return this bucket if it exists.

        Raises:
            InputError: it does not.
        """
        if self.region() is None:
            raise InputError(
                f"bucket {self.name}: does not exist; nothing was deployed in this account and region"
            )
        return self

    def ensure(self, ours: bool) -> bool:
        """Make sure that the bucket exists in our account and region; create it if its name is free.

        Args:
            ours: whether the name is the project's own. Such a bucket is always closed to the public, because an
                earlier attempt may have been killed between creating and closing it.

        Returns:
            True if the bucket was created.

        Raises:
            InputError: the bucket is in another account or region.
        """
        region = self.region()
        if region is None:
            self._create()
        elif region != self._region:
            raise InputError(
                f"bucket {self.name}: it is in {region} and the cluster would be in {self._region}; "
                "name one of the same region"
            )
        if region is None or ours:
            with explained(f"bucket {self.name}"):
                self._s3.put_public_access_block(
                    **self._bucket, PublicAccessBlockConfiguration=dict.fromkeys(PUBLIC_ACCESS, True)
                )
        return region is None

    def _create(self) -> None:
        """Create the bucket, encrypted and tagged. Afterwards, encryption and tags are the user's to change."""
        location = {"LocationConstraint": self._region}
        rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": ENCRYPTION}}
        with explained(f"bucket {self.name}"):
            if self._region == "us-east-1":  # the default, which S3 does not accept as a constraint
                self._s3.create_bucket(Bucket=self.name)
            else:
                self._s3.create_bucket(Bucket=self.name, CreateBucketConfiguration=location)
            self._s3.put_bucket_encryption(**self._bucket, ServerSideEncryptionConfiguration={"Rules": [rule]})
            self._s3.put_bucket_tagging(**self._bucket, Tagging={"TagSet": [{"Key": "project", "Value": PROJECT}]})

    def has(self, key: str) -> bool:
        """Return True if there is an object with this key."""
        with explained(f"s3://{self.name}/{key}"):
            try:
                self._s3.head_object(**self._bucket, Key=key)
            except ClientError as error:
                if code_of(error) in NOT_FOUND:
                    return False
                raise
        return True

    def upload(self, key: str, path: Path, advance: Callable[[int], None]) -> None:
        """Upload a file, encrypted at rest. The object appears whole or not at all.

        Args:
            key: the object's key.
            path: the file.
            advance: called with the number of bytes after each part that was sent.
        """
        with explained(f"s3://{self.name}/{key}"):
            extra = {**self._owner, "ServerSideEncryption": ENCRYPTION}
            self._s3.upload_file(str(path), self.name, key, Callback=advance, ExtraArgs=extra)

    def objects(self, prefix: str) -> Iterator[dict[str, Any]]:
        """Yield Key, Size and ETag of each object below a prefix."""
        with explained(f"s3://{self.name}/{prefix}"):
            for page in self._s3.get_paginator("list_objects_v2").paginate(**self._bucket, Prefix=prefix):
                yield from page.get("Contents", [])

    def folders(self, prefix: str) -> list[str]:
        """Return the names of folders directly below a prefix, sorted."""
        with explained(f"s3://{self.name}/{prefix}"):
            paginator = self._s3.get_paginator("list_objects_v2")
            pages = paginator.paginate(**self._bucket, Prefix=prefix, Delimiter="/")
            found = [common["Prefix"] for page in pages for common in page.get("CommonPrefixes", [])]
        return sorted(name.removeprefix(prefix).rstrip("/") for name in found)

    def read(self, key: str) -> bytes:
        """Return the content of an object."""
        with explained(f"s3://{self.name}/{key}"):
            return bytes(self._s3.get_object(**self._bucket, Key=key)["Body"].read())

    def fetch(self, prefix: str, folder: Path) -> int:
        """Download a run folder, whole or not at all.

        Args:
            prefix: the run folder's prefix, ending in a slash.
            folder: the local folder to create; must not exist.

        Returns:
            the number of files.

        Raises:
            InputError: there is no run folder, or its job has not finished.
            RunError: the files cannot be downloaded or written.
        """
        keys = [entry["Key"] for entry in self.objects(prefix) if not entry["Key"].endswith("/")]
        if f"{prefix}{LAST}" not in keys:
            raise InputError(f"s3://{self.name}/{prefix}: there is no complete run folder")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=".run-", suffix=".partial", dir=folder.parent))
            try:
                for key in keys:
                    self._download(key, prefix, staging)
                staging.chmod(0o755)
                staging.rename(folder)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        except OSError as error:
            raise RunError(f"{folder}: cannot be written ({error.strerror or error})") from error
        return len(keys)

    def _download(self, key: str, prefix: str, folder: Path) -> None:
        """Download an object to the path below `folder` that its key has below `prefix`."""
        name = PurePosixPath(key.removeprefix(prefix))
        if name.is_absolute() or ".." in name.parts:
            raise RunError(f"s3://{self.name}/{key}: leads out of its folder; refused")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with explained(f"s3://{self.name}/{key}"):
            self._s3.download_file(self.name, key, str(path), ExtraArgs=self._owner)
