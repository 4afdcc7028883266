"""Starting Spark: what is wrong with an environment, in one line that names the variable or the cause."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from py4j.protocol import Py4JError, Py4JJavaError
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkException

from common.errors import InputError

CAUSES = {
    "UnknownHostException": "the name of this machine does not resolve; set SPARK_LOCAL_IP=127.0.0.1",
    "invalid null input: name": "this user has no name in /etc/passwd, and Hadoop needs one",
}
"""Explanations of Java's errors, by a part of their text."""


def start(configuration: Callable[[], SparkConf]) -> SparkContext:
    """Start Spark.

    Args:
        configuration: returns its settings, for which the JVM may be started.

    Raises:
        InputError: Spark cannot start in this environment.
        py4j.protocol.Py4JError, pyspark.errors.PySparkException: Spark failed for another reason.
    """
    _check_user()
    try:
        settings = configuration()
        _check_address()
        _check_python(settings)
        return SparkContext(conf=settings)
    except OSError as error:  # the script that starts the JVM does not exist
        raise InputError(f"Spark cannot start: {_without_jvm() or error}") from error
    except (Py4JError, PySparkException) as error:
        message = str(error.java_exception) if isinstance(error, Py4JJavaError) else str(error)
        if "JAVA_GATEWAY_EXITED" in message:
            reason = _without_jvm() or "Java ended at once; its own message is above"
            raise InputError(f"Spark cannot start: {reason}") from error
        cause = next((cause for mark, cause in CAUSES.items() if mark in message), None)
        if cause is None:
            raise
        raise InputError(f"Spark cannot start: {cause}") from error


def _check_user() -> None:
    """Make sure that Hadoop will find the name of the user.

    Raises:
        InputError: it will not.
    """
    try:
        pwd.getpwuid(os.getuid())
    except KeyError as error:
        raise InputError(
            f"Spark cannot start: user {os.getuid()} has no name in /etc/passwd, and Hadoop needs one; as root: "
            f"echo 'spark:x:{os.getuid()}:0::/tmp:/bin/sh' >> /etc/passwd"
        ) from error


def _without_jvm() -> str | None:
    """Return what keeps a JVM from starting, or None if nothing is known."""
    spark, java = os.environ.get("SPARK_HOME"), os.environ.get("JAVA_HOME")
    if spark is not None and not Path(spark, "bin", "spark-submit").is_file():
        return f"SPARK_HOME={spark} holds no Spark; unset it, and Spark is found by itself"
    if java is not None and not Path(java, "bin", "java").is_file():
        return f"JAVA_HOME={java} holds no Java; point it at Java 17 or 21, or unset it"
    if java is None and shutil.which("java") is None:
        return "there is no Java; install 17 or 21 (on Debian: apt-get install openjdk-17-jre-headless)"
    return None


def _check_python(settings: SparkConf) -> None:
    """Make sure that local workers can start.

    Raises:
        InputError: there is no such program as PYSPARK_PYTHON names.
    """
    program = os.environ.get("PYSPARK_PYTHON")
    local = settings.get("spark.master", "").startswith("local")
    if local and program and shutil.which(program) is None:
        raise InputError(f"Spark cannot start: PYSPARK_PYTHON={program} is no program; unset it")


def _check_address() -> None:
    """Make sure that the address at which Spark will listen is one of this machine.

    Raises:
        InputError: it is not.
    """
    address = os.environ.get("SPARK_LOCAL_IP")
    if address is None:
        return
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as trial:
            trial.bind((address, 0))
    except OSError as error:
        raise InputError(
            f"Spark cannot start: SPARK_LOCAL_IP={address} is no address of this machine; unset it"
        ) from error


def check_words(words: Sequence[str]) -> None:
    """Refuse arguments of spark-submit that may have lost letters.

    In the C locale its JVM turns each byte of an accented letter into a question mark, and what was typed is gone.

    Raises:
        InputError: a word has two question marks side by side, and the locale is C.
    """
    locale = next((os.environ[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if os.environ.get(name)), "C")
    lost = next((word for word in words if "??" in word or "\ufffd" in word), None)
    if locale in ("C", "POSIX") and lost is not None:
        raise InputError(f"{lost}: spark-submit loses accented letters in the locale {locale}; set LC_ALL=C.UTF-8")
