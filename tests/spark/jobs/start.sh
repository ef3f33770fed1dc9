#!/bin/sh
# Starts an application with the driver kit in a slot of a rollout; of what a rollout gives it takes the
# environment (STEPDOWN_*).
#
#     start.sh JAR [OPTIONS OF SPARK-SUBMIT] SCRIPT [ARGUMENTS]
set -eu
jar=$1
shift
# A job that is not to be held gets an empty STEPDOWN_GO.
exec "$SPARK_HOME/bin/spark-submit" \
    --driver-class-path "$jar" \
    --conf spark.plugins=io.stepdown.StepdownPlugin \
    --conf "spark.stepdown.control=$STEPDOWN_CONTROL" \
    --conf "spark.stepdown.job=$STEPDOWN_JOB" \
    --conf "spark.stepdown.slot=$STEPDOWN_SLOT" \
    ${STEPDOWN_GO:+--conf "spark.stepdown.go=$STEPDOWN_GO"} \
    --conf spark.master='local[2]' \
    --conf spark.driver.memory=700m \
    --conf spark.driver.extraJavaOptions='-XX:TieredStopAtLevel=1 -XX:+UseSerialGC' \
    --conf spark.driver.host=127.0.0.1 \
    --conf spark.driver.bindAddress=127.0.0.1 \
    --conf spark.ui.enabled=false \
    --conf spark.sql.shuffle.partitions=1 \
    "$@"
