"""What `transformWithState` runs, in Python processes of Spark's that import it from here."""

from pyspark.sql import Row
from pyspark.sql.streaming import StatefulProcessor


class Sums(StatefulProcessor):
    def init(self, handle):
        self.total = handle.getValueState("total", "sum long, count long")

    def handleInputRows(self, key, rows, timerValues):
        total, count = self.total.get() if self.total.exists() else (0, 0)
        for row in rows:
            total, count = total + row.amount, count + 1
        self.total.update((total, count))
        yield Row(key=key[0], sum=total, count=count)

    def close(self):
        pass
