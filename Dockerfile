FROM python:3.11-slim-bookworm AS builder

WORKDIR /opt/proxima
COPY requirements/runtime.lock ./
RUN python -m venv --without-pip /opt/venv \
    && python -m pip --python /opt/venv/bin/python install --no-cache-dir --only-binary=:all: --require-hashes \
        -r runtime.lock \
    && echo /opt/proxima > /opt/venv/lib/python3.11/site-packages/proxima.pth

# The address of the database carries a password, so it may come in a file: then no `inspect` shows it.
RUN printf '%s\n' \
        '#!/bin/sh' \
        'set -e' \
        'secret=/run/secrets/proxima_database_url' \
        'if [ -e "$secret" ]; then PROXIMA_DATABASE_URL=$(cat "$secret"); export PROXIMA_DATABASE_URL; fi' \
        'exec /opt/venv/bin/python -P -c "from app.cli import main; main()" "$@"' \
        > /opt/venv/bin/proxima \
    && chmod 755 /opt/venv/bin/proxima

COPY alembic.ini LICENSE ./
COPY migrations migrations
COPY app app
# The file system of the service is read-only, so what is not compiled now would be compiled at each start.
RUN python -m compileall -q --invalidation-mode unchecked-hash app migrations \
    && rm runtime.lock


FROM python:3.11-slim-bookworm

LABEL org.opencontainers.image.title="Proxima" \
      org.opencontainers.image.description="Adaptive learning as a service" \
      org.opencontainers.image.licenses="Apache-2.0"

# Nothing is installed here at run time; the base image ships its standard library uncompiled.
RUN rm -rf /usr/local/bin/pip* /usr/local/bin/wheel /usr/local/lib/python3.11/ensurepip \
        /usr/local/lib/python3.11/site-packages/* \
    && python -m compileall -q /usr/local/lib/python3.11 \
    && groupadd --gid 10001 proxima \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin proxima \
    && install -d -o proxima -g proxima -m 0700 /data \
    && find / -xdev -perm /6000 -type f -exec chmod a-s {} +

COPY --from=builder /opt/venv /opt/venv
COPY --from=builder /opt/proxima /opt/proxima

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PROXIMA_DATABASE_URL=sqlite:////data/proxima.db

USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-I", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/livez'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["proxima"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
