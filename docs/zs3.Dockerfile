# The image of docs/kuberay-rayjob.yaml: `docker build -f docs/zs3.Dockerfile -t REGISTRY/zs3:0.1.0-ray2.60.0 .`
# Ray's own image plus the pinned packages. torch contains CUDA; the machine provides the driver.
FROM rayproject/ray:2.60.0-py311

COPY --chown=ray pyproject.toml constraints.txt README.md LICENSE /home/ray/zs3/
COPY --chown=ray zs3 /home/ray/zs3/zs3
COPY --chown=ray pipelines /home/ray/zs3/pipelines
COPY --chown=ray jobs /home/ray/zs3/jobs
RUN pip install --no-cache-dir -c /home/ray/zs3/constraints.txt '/home/ray/zs3[aws]'

# Lets the device plugin of a cluster expose GPUs to this image, which is not based on a CUDA image.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /home/ray/zs3
