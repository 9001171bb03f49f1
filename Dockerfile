# The service, with the embedded model. Build: docker build -t guard .
# It listens on all addresses of the container, so it starts only with a file of keys (docs/http.md, Keys), in a folder
# that uid 10001 may write to:
#   docker run --rm -v "$PWD/keys:/keys" guard keys create --name me --keys /keys/keys.sqlite
#   docker run -p 8080:8080 -v "$PWD/keys:/keys" -e GUARD_KEYS=/keys/keys.sqlite guard
# or with `-e GUARD_OPEN_ACCESS=true -p 127.0.0.1:8080:8080` for whoever is on this machine.
FROM python:3.11-slim AS build
# An index with wheels for your hardware, as https://pytorch.org/get-started/locally/ names it; empty: pip's default.
ARG TORCH_INDEX=""
WORKDIR /src
RUN python -m venv /opt/guard
ENV PATH="/opt/guard/bin:$PATH"
# The range is the one of pyproject.toml.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch>=2.13,<2.14"
COPY pyproject.toml README.md LICENSE ./
COPY guard ./guard
COPY prompts ./prompts
COPY models ./models
# hadolint ignore=DL3013
RUN pip install --no-cache-dir .

FROM python:3.11-slim
COPY --from=build /opt/guard /opt/guard
ENV PATH="/opt/guard/bin:$PATH" GUARD_HOST=0.0.0.0 GUARD_PORT=8080
# The engine compiles its kernels for the processor that it finds itself on, in some seconds at the first start.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 10001 guard
USER 10001
WORKDIR /home/guard
EXPOSE 8080
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/readyz', timeout=4)"]
ENTRYPOINT ["guard"]
CMD ["serve"]
