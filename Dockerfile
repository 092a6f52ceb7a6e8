# docker build --tag css .                                          PyTorch with its CUDA libraries
# docker build --tag css --build-arg TORCH_INDEX=ADDRESS .          another build of PyTorch, see docs/installation.md
# docker run --rm --gpus 1 --ipc host --user "$(id -u):$(id -g)" --volume "$PWD/data:/data" --volume "$PWD/runs:/home/css/runs" \
#     css run voc 15-1
FROM python:3.11-slim

ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# Any user may write to /home/css and /cache: with --user, what a run leaves does not belong to root. PyTorch before the code,
# so that a change of that does not install it again; versions are those that pyproject.toml allows.
# hadolint ignore=DL3013
RUN mkdir -m 777 /home/css /cache && \
    pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} 'torch>=2.11' 'torchvision>=0.26'

WORKDIR /opt/css
COPY pyproject.toml README.md LICENSE ./
COPY css css
COPY tasks tasks
COPY plop_baseline plop_baseline
COPY recipes recipes
# hadolint ignore=DL3013
RUN pip install '.[export]'

ENV DATA_ROOT=/data XDG_CACHE_HOME=/cache HOME=/home/css
WORKDIR /home/css
USER 65534
ENTRYPOINT ["css"]
CMD ["--help"]
