"""How much of each quota was given out."""

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, Instant


class QuotaUse(Base):
    """What was given out to `subject` in the window that ends at `ends_at`, by the database's clock.

    Rows of windows that have ended mean nothing and are deleted by the next request. Addresses from which keys were
    refused belong to no tenant: their rows are those of tenant 0, and name the address by a hash.
    """

    __tablename__ = "quota_use"

    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    subject: Mapped[str] = mapped_column(String(64), primary_key=True)
    ends_at: Mapped[int] = mapped_column(Instant, primary_key=True)
    used: Mapped[int] = mapped_column(BigInteger)
