# The server's image: `ciris-billing`, its Python, and no build tools.
#   docker build --tag ciris-billing .
#   docker run --rm ciris-billing --help

FROM python:3.13.1-slim-bookworm AS builder
WORKDIR /build
# Packages are installed from wheels only: nothing is compiled, and a package without a wheel fails
# the build.
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ONLY_BINARY=:all:
RUN python -m venv --without-pip /opt/ciris-billing
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY server ./server
COPY sql ./sql
COPY migrations ./migrations
COPY templates ./templates
COPY static ./static
RUN python -m pip wheel --no-deps --wheel-dir /wheels . \
    && python -m pip --python /opt/ciris-billing/bin/python install /wheels/*.whl \
    && /opt/ciris-billing/bin/ciris-billing --version

FROM python:3.13.1-slim-bookworm
LABEL org.opencontainers.image.title="CIRIS Billing" \
      org.opencontainers.image.description="Credit gating for AI agents" \
      org.opencontainers.image.documentation="docs/deploy.md"
# Nothing can be installed in a running container.
RUN rm -rf /usr/local/lib/python3.13/site-packages/* /usr/local/lib/python3.13/ensurepip \
        /usr/local/bin/pip* \
    && useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin billing
COPY --from=builder /opt/ciris-billing /opt/ciris-billing
ENV PATH=/opt/ciris-billing/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOST=0.0.0.0 \
    PORT=8000
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
# SIGTERM, Docker's own signal, ends the server gracefully. Give it 40 seconds (docker stop --time
# 40).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["ciris-billing"]
CMD ["serve"]
