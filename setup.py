from setuptools import find_packages, setup

# Every lower bound was tested; constraints.txt holds the versions that CI uses.
# Detectron2 itself is not listed: it is not on the package index under its own name.
REQUIREMENTS = [
    "torch>=2.6",  # the first whose torch.load refuses to run code from a checkpoint
    "torchvision>=0.21",
    "numpy>=1.26",
    "scipy>=1.11.4",
    "Pillow>=10.0",
    "matplotlib>=3.8",
    "pycocotools>=2.0.7",
    "safetensors>=0.4.5",
    "faster-coco-eval>=1.6.5",  # COCOEvaluator's speed without Detectron2's extension
    # What Detectron2 runs on. It asks for them itself, except where only its Python part is
    # installed, without its requirements, as tools/setup_env.sh does.
    "fvcore>=0.1.5.post20221221,<0.1.6",
    "iopath>=0.1.9",
    "omegaconf>=2.3",
    "hydra-core>=1.3.2",
    "yacs>=0.1.8",
    "tabulate>=0.9",
    "PyYAML>=6.0",
    "cloudpickle>=3.0",
    "tqdm>=4.66",
    "tensorboard>=2.15",
    "termcolor>=2.3",
    "setuptools>=70.1",  # torch.utils.cpp_extension, which default_setup imports
]

EXTRAS = {
    # Detectron2's Visualizer imports OpenCV. Not required, because a second build of OpenCV
    # would overwrite the one that the environment has.
    "draw": ["opencv-python-headless>=4.8.1.78"],
    # report.html: its charts, and its template.
    "report": ["plotly>=6.0", "Jinja2>=3.1"],
    # TRACKERS.
    "wandb": ["wandb>=0.31"],
    "mlflow": ["mlflow-skinny>=3.17"],
    # hf://ORG/NAME as MODEL.WEIGHTS.
    "hub": ["huggingface_hub>=0.23"],
    # tools/export_model.py; onnxscript is what torch.onnx writes with, and OpenVINO the other
    # runtime that --optimize tries.
    "export": [
        "onnx>=1.18",
        "onnxruntime>=1.22",
        "onnxscript>=0.5.3",
        "openvino>=2025.2",
    ],
    # `d2detr completion`.
    "completion": ["shtab>=1.7"],
    # The peer that tools/benchmark.py --compare huggingface measures.
    "benchmark": ["transformers>=5.0", "timm>=1.0.19"],
    # mkdocs build: the site of docs/, whose reference is made of docstrings.
    "docs": [
        "mkdocs>=1.6,<2",
        "mkdocs-material>=9.6",
        "mkdocstrings-python>=2.0",
    ],
    # playwright drives a Chromium, where there is one, through HTML pages; shapely crops polygons;
    # shtab completes the command; transformers and timm prove the weights; supervision takes the
    # predictor's output, and its readers of VOC and YOLO check ours; nbclient runs the notebooks;
    # pytest-xdist halves the time of the tests.
    "test": [
        "onnx>=1.18",
        "onnxruntime>=1.22",
        "onnxscript>=0.5.3",
        "openvino>=2025.2",
        "huggingface_hub>=0.23",
        "import-linter>=2.17",
        "ipykernel>=6.29",
        "mypy>=2.4.1",
        "nbclient>=0.10",
        "nbformat>=5.10",
        "playwright>=1.49",
        "pytest>=7.4",
        "pytest-xdist>=3.5",
        "ruff>=0.6",
        "shapely>=2.0.2",
        "shtab>=1.7",
        "transformers>=4.57.6",
        "timm>=1.0.19",
        "supervision>=0.31.2",
    ],
}

setup(
    name="d2detr",
    version="0.1.0",
    description="DETR as a Detectron2 plugin",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[*find_packages(include=["d2detr", "d2detr.*"]), "d2detr.configs"],
    py_modules=["d2detr_command"],
    package_dir={"d2detr.configs": "configs"},
    package_data={
        "d2detr.configs": ["**/*.yaml", "**/*.py"],
        "d2detr.report": ["page/*"],
        "d2detr.visualization": ["page/*"],
    },
    # In development mode, put the checkout on Python's path. Setuptools' own way is asked after the
    # current folder, in which a clone called d2detr would be taken for the package.
    options={"editable_wheel": {"mode": "compat"}},
    entry_points={"console_scripts": ["d2detr = d2detr_command:main"]},
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
)
