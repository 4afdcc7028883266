# Read by spark-submit before it starts Java.

# If the name of this machine does not resolve, Spark ends in a stack trace unless it is told an address.
if [ -z "${SPARK_LOCAL_IP:-}" ] && command -v getent >/dev/null && ! getent hosts "$(hostname)" >/dev/null; then
    export SPARK_LOCAL_IP=127.0.0.1
fi

# A notebook is for Spark's shell, and cannot run a job.
case "${PYSPARK_DRIVER_PYTHON:-} $*" in
*pyspark-shell*) ;;
*jupyter*.py*)
    echo "PYSPARK_DRIVER_PYTHON=$PYSPARK_DRIVER_PYTHON is for notebooks: this job runs by Python itself" >&2
    unset PYSPARK_DRIVER_PYTHON PYSPARK_DRIVER_PYTHON_OPTS
    ;;
esac
