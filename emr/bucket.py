"""What goes to S3 and comes back: artefacts once, run folders whole."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from botocore.exceptions import ClientError

from common.errors import InputError
from common.run.folder import LAST
from emr.aws import DENIED, Aws, code_of, explained
from emr.settings import PROJECT

ENCRYPTION = "AES256"
NOT_FOUND = {"404", "NoSuchBucket", "NotFound", "NoSuchKey"}


class Bucket:
    """A bucket, of which the project uses what is below one prefix.

    Args:
        aws: the services.
        name: the bucket's.
    """

    def __init__(self, aws: Aws, name: str) -> None:
        self.name = name
        self._s3 = aws.s3
        self._region = aws.region
        # of all that is asked of it, so that no bucket of the same name takes its place
        self._owner = {"ExpectedBucketOwner": aws.identity.account}
        self._where = {"Bucket": name, **self._owner}

    def region(self) -> str | None:
        """The region it is in, or None where there is no such bucket.

        Raises:
            InputError: it is another account's.
        """
        with explained(f"bucket {self.name}"):
            try:
                said = self._s3.head_bucket(**self._where)
            except ClientError as error:
                if code_of(error) in NOT_FOUND:
                    return None
                if code_of(error) in DENIED:
                    raise InputError(
                        f"bucket {self.name}: it is another account's, or closed to you; name one of yours"
                    ) from error
                headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
                if "x-amz-bucket-region" in headers:  # 301 or 400: asked in the wrong region
                    return str(headers["x-amz-bucket-region"])
                raise
        return str(said.get("BucketRegion") or self._region)

    def ensure(self, ours: bool) -> bool:
        """Make sure that it is there, ours, and in our region; make it if nobody has it.

        Args:
            ours: whether its name is this project's own, so that it is closed even if a kill left it half made.

        Returns:
            whether it was made.

        Raises:
            InputError: it is another's, or in another region.
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
            blocked = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
            with explained(f"bucket {self.name}"):
                self._s3.put_public_access_block(
                    **self._where, PublicAccessBlockConfiguration=dict.fromkeys(blocked, True)
                )
        return region is None

    def _create(self) -> None:
        """Make it, with what is in it encrypted; afterwards encryption and tags are the user's to change."""
        elsewhere = {"LocationConstraint": self._region}
        rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": ENCRYPTION}}
        with explained(f"bucket {self.name}"):
            if self._region == "us-east-1":  # which is no constraint
                self._s3.create_bucket(Bucket=self.name)
            else:
                self._s3.create_bucket(Bucket=self.name, CreateBucketConfiguration=elsewhere)
            self._s3.put_bucket_encryption(**self._where, ServerSideEncryptionConfiguration={"Rules": [rule]})
            self._s3.put_bucket_tagging(**self._where, Tagging={"TagSet": [{"Key": "project", "Value": PROJECT}]})

    def has(self, key: str) -> bool:
        """Whether there is an object of that key."""
        with explained(f"s3://{self.name}/{key}"):
            try:
                self._s3.head_object(**self._where, Key=key)
            except ClientError as error:
                if code_of(error) in NOT_FOUND:
                    return False
                raise
        return True

    def upload(self, key: str, path: Path, moved: Callable[[int], None]) -> None:
        """Put a file there, encrypted at rest; it appears whole or not at all.

        Args:
            key: where.
            path: the file.
            moved: is told of the bytes that went.
        """
        with explained(f"s3://{self.name}/{key}"):
            extra = {**self._owner, "ServerSideEncryption": ENCRYPTION}
            self._s3.upload_file(str(path), self.name, key, Callback=moved, ExtraArgs=extra)

    def objects(self, prefix: str) -> Iterator[dict[str, Any]]:
        """Key, Size and ETag of what is below a prefix."""
        with explained(f"s3://{self.name}/{prefix}"):
            for page in self._s3.get_paginator("list_objects_v2").paginate(**self._where, Prefix=prefix):
                yield from page.get("Contents", [])

    def folders(self, prefix: str) -> list[str]:
        """Names of what looks like folders directly below a prefix."""
        with explained(f"s3://{self.name}/{prefix}"):
            pages = self._s3.get_paginator("list_objects_v2").paginate(**self._where, Prefix=prefix, Delimiter="/")
            found = [own["Prefix"] for page in pages for own in page.get("CommonPrefixes", [])]
        return sorted(name.removeprefix(prefix).rstrip("/") for name in found)

    def read(self, key: str) -> bytes:
        """A whole object."""
        with explained(f"s3://{self.name}/{key}"):
            return bytes(self._s3.get_object(**self._where, Key=key)["Body"].read())

    def fetch(self, prefix: str, folder: Path) -> int:
        """Bring a run folder to this machine, whole or not at all.

        Args:
            prefix: where it is, ending in a slash.
            folder: where it comes to; must not be there.

        Returns:
            how many files it has.

        Raises:
            InputError: there is none, or its job has not come to an end.
        """
        keys = [entry["Key"] for entry in self.objects(prefix) if not entry["Key"].endswith("/")]
        if f"{prefix}{LAST}" not in keys:
            raise InputError(f"s3://{self.name}/{prefix}: no whole run folder is there")
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".run-", suffix=".partial", dir=folder.parent))
        try:
            for key in keys:
                name = PurePosixPath(key.removeprefix(prefix))
                if name.is_absolute() or ".." in name.parts:
                    raise InputError(f"s3://{self.name}/{key}: leads out of its folder; refused")
                path = staging / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with explained(f"s3://{self.name}/{key}"):
                    self._s3.download_file(self.name, key, str(path), ExtraArgs=self._owner)
            staging.chmod(0o755)
            staging.rename(folder)
        except OSError as error:
            raise InputError(f"{folder}: cannot be written ({error.strerror or error})") from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return len(keys)
