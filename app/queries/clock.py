"""The database's clock: the one that all processes share, whatever the clocks of their hosts say."""

import time

from sqlalchemy import BigInteger, Connection, cast, func, select

MICROSECONDS = 1_000_000


def read_clock(db: Connection) -> int:
    """This moment in microseconds since 1970; within a transaction it goes on.

    All users of a file of SQLite are on one host, so its clock is the shared one.
    """
    if db.dialect.name == "sqlite":
        return time.time_ns() // 1000
    moment = func.extract("epoch", func.clock_timestamp()) * MICROSECONDS
    return int(db.execute(select(cast(moment, BigInteger))).scalar_one())
