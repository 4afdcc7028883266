# Read by spark-submit before it starts Java.

# Java takes the home of a user without a name for "?", and Hadoop does not start for one.
if ! id -un >/dev/null 2>&1; then
    echo "Spark cannot start: user $(id -u) has no name in /etc/passwd, and Hadoop needs one; as root: echo 'spark:x:$(id -u):0::/tmp:/bin/sh' >> /etc/passwd" >&2
    exit 2
fi

# If the name of this machine does not resolve, Spark ends in a stack trace unless it is told an address.
if [ -z "${SPARK_LOCAL_IP:-}" ] && command -v getent >/dev/null && ! getent hosts "$(hostname)" >/dev/null; then
    export SPARK_LOCAL_IP=127.0.0.1
fi

# A notebook is for Spark's shell, and cannot run a job.
case "${PYSPARK_DRIVER_PYTHON:-} $*" in
*pyspark-shell*) ;;
*jupyter*.py*)
    echo "PYSPARK_DRIVER_PYTHON=$PYSPARK_DRIVER_PYTHON is for notebooks and is ignored: the job goes on with python3" >&2
    unset PYSPARK_DRIVER_PYTHON PYSPARK_DRIVER_PYTHON_OPTS
    ;;
esac
