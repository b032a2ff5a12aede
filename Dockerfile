# The operator's image: Python, the operator and what it needs to run; no compiler, no pip.
# Build it from the repository's root:  docker build .
#
# Any base with Python 3.11 or newer and its venv module serves.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/build && python3 -m venv --without-pip /opt/operator
# The dependencies alone, so that a change of the code does not install them again.
COPY pyproject.toml /build/
RUN cd /build \
 && python3 -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['operator'], sep='\n')" > requirements.txt \
 && /opt/build/bin/pip --python /opt/operator/bin/python install -r requirements.txt
# The Kubernetes client's typed interfaces and models are 110 of its 126 MB and loaded only when
# used, which the operator does not: the interfaces go, the models stay without compiled copies.
RUN cd /opt/operator/lib/python3*/site-packages \
 && find kubernetes -path '*/client/api/*' -name '*_api*.py*' -delete \
 && find kubernetes -path '*/client/models/__pycache__/*' -delete \
 && echo /opt/dsjob > dsjob.pth
COPY operator/deepspeed_operator /opt/dsjob/deepspeed_operator
COPY trainer_image/deepspeed_trainer /opt/dsjob/deepspeed_trainer
RUN /opt/operator/bin/python -m compileall -q /opt/dsjob \
 && /opt/operator/bin/python -c "import deepspeed_operator.__main__"

FROM ${BASE_IMAGE}
# Under any user id: whoever asks for the name of the user finds it here, not in /etc/passwd.
ENV PATH=/opt/operator/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp USER=operator LOGNAME=operator
COPY --from=build /opt/operator /opt/operator
COPY --from=build /opt/dsjob /opt/dsjob
# A number, so that the kubelet can see that it is not root; any other serves as well.
USER 65532:65532
ENTRYPOINT ["python", "-m", "deepspeed_operator"]
